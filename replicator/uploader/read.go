package uploader

import (
	"context"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/segment"
)

// tailGuessBytes is the first range read of an object's tail; a longer footer
// costs a second one.
const tailGuessBytes = 64 << 10

// ReadIndex reads the head and footer of a position by range reads of the
// object's tail. An absent object is fail.NotFound.
func ReadIndex(ctx context.Context, s objstore.Store, position uint64) (*segment.Index, error) {
	size, err := s.Size(ctx, ObjectName(position))
	if err != nil {
		return nil, err
	}
	return ReadIndexSized(ctx, s, position, size)
}

// ReadIndexSized is ReadIndex of an object whose size is known, from a list.
func ReadIndexSized(ctx context.Context, s objstore.Store, position uint64, size int64) (x *segment.Index, err error) {
	err = objstore.Reread(func() error {
		x, err = readIndex(ctx, s, position, size)
		return err
	})
	return x, err
}

func readIndex(ctx context.Context, s objstore.Store, position uint64, size int64) (*segment.Index, error) {
	name := ObjectName(position)
	at := func(err error) error { return fail.At("read", s.URL()+"/"+name, err) }
	tail, err := s.Read(ctx, name, -tailGuessBytes, -1, nil)
	if err != nil {
		return nil, err
	}
	need, err := segment.TailBytes(tail, size)
	if err != nil {
		return nil, at(err)
	}
	if need > int64(len(tail)) {
		if tail, err = s.Read(ctx, name, -need, -1, nil); err != nil {
			return nil, err
		}
	}
	x, err := segment.ParseTail(tail, size)
	if err != nil {
		return nil, at(err)
	}
	if x.Position != position {
		return nil, fail.New(fail.Damaged, "read", s.URL()+"/"+name, "the object says that it is position "+ObjectName(x.Position))
	}
	return x, nil
}
