package extentmap

import (
	"encoding/binary"

	"github.com/pollux-dr/pollux/replicator/objlog/extent"
)

// ByBlock sorts extents of one volume by where they lie, so that each block is read
// once, and objects from their beginning to their end. It is used as a Sorter is.
// Zeros come last.
type ByBlock struct {
	s          scratch
	seq        uint64
	key, value []byte
}

// NewByBlock makes one below dir ("" is the system's place for temporary files).
func NewByBlock(dir string) *ByBlock { return &ByBlock{s: scratch{parent: dir}} }

// Close forgets all of it.
func (s *ByBlock) Close() error { return s.s.close() }

// Flush makes all that was added readable. Errors are fail.Full.
func (s *ByBlock) Flush() error { return s.s.flush() }

// Add takes an extent. Errors are fail.Full.
func (s *ByBlock) Add(e *extent.Extent) error {
	s.seq++
	a := e.Addr()
	s.key = binary.BigEndian.AppendUint64(s.key[:0], uint64(a.Object))
	s.key = binary.BigEndian.AppendUint32(s.key, a.Offset)
	s.key = binary.BigEndian.AppendUint64(s.key, s.seq)
	s.value = appendExtent(s.value[:0], 0, e)
	return s.s.set(s.key, s.value)
}

// Each calls fn with all extents in order.
func (s *ByBlock) Each(fn func(e *extent.Extent) error) error {
	var one []extent.Extent
	return s.s.each(nil, nil, func(_, value []byte) (bool, error) {
		var err error
		if one, err = parseExtents(one[:0], 0, value); err == nil {
			err = fn(&one[0])
		}
		return true, err
	})
}
