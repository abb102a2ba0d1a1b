package objlog

import (
	"context"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// tailGuessBytes is the first range read of an object's tail; a longer footer
// costs a second one, and an object that is shorter is read whole.
const tailGuessBytes = 64 << 10

// ReadIndex reads the head and footer of a position by range reads of the
// object's tail. Only an object that is longer than the first of them is asked for its size.
func ReadIndex(ctx context.Context, s objstore.Store, position uint64) (*segment.Index, error) {
	x, _, err := ReadTail(ctx, s, position, -1)
	return x, err
}

// ReadTail is ReadIndex of an object whose size may be known, from a list; below 0 it is
// not. It returns what was read of the object's end, too: the whole footer, and of what lies
// before it as much as came with it.
func ReadTail(ctx context.Context, s objstore.Store, position uint64, size int64) (
	x *segment.Index, tail []byte, err error) {
	err = objstore.Reread(func() error {
		x, tail, err = readTail(ctx, s, position, size)
		return err
	})
	return x, tail, err
}

func readTail(ctx context.Context, s objstore.Store, position uint64, size int64) (*segment.Index, []byte, error) {
	name := ObjectName(position)
	at := func(err error) error { return fail.At("read", s.URL()+"/"+name, err) }
	tail, err := s.Read(ctx, name, -tailGuessBytes, -1, nil)
	if err == nil && size < 0 {
		if size = int64(len(tail)); size == tailGuessBytes {
			size, err = s.Size(ctx, name)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	need, err := segment.TailBytes(tail, size)
	if err != nil {
		return nil, nil, at(err)
	}
	if need > int64(len(tail)) {
		if tail, err = s.Read(ctx, name, -need, -1, nil); err != nil {
			return nil, nil, err
		}
	}
	x, err := ParseTail(s, position, tail, size)
	return x, tail, err
}

// ParseTail decodes a position's footer from the end of its object.
func ParseTail(s objstore.Store, position uint64, tail []byte, size int64) (*segment.Index, error) {
	object := s.URL() + "/" + ObjectName(position)
	x, err := segment.ParseTail(tail, size)
	if err != nil {
		return nil, fail.At("read", object, err)
	}
	if x.Position != position {
		return nil, fail.New(fail.Damaged, "read", object, "the object says that it is position "+
			ObjectName(x.Position))
	}
	return x, nil
}
