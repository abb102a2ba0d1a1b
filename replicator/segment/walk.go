package segment

import (
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/state"
)

// Checked is an entry's content, every checksum of it checked.
type Checked struct {
	Frame   *change.Frame // of a frame entry; valid until the next call
	Command state.Kind    // of a command entry
	JSON    []byte        // of a command entry, in the object's memory
	Err     error         // what is wrong with it: then nothing else is set
}

// Walk checks a whole object down to the plain bytes of each frame. It calls fn
// for every entry, in journal order, damaged ones included, and returns the
// first damage that it found. The Index is nil where head or footer is damaged.
func Walk(obj []byte, fn func(i int, c Checked)) (*Index, error) {
	x, err := Parse(obj)
	if err != nil {
		return nil, err
	}
	var frame change.Frame
	var plain []byte
	for i := range x.Entries {
		e := &x.Entries[i]
		body := obj[e.Offset:][:e.Bytes]
		var c Checked
		if e.Kind == FrameEntry {
			if c.Err = x.Frame(&frame, body, i); c.Err == nil {
				if plain, c.Err = frame.Plain(plain); c.Err != nil {
					c.Err = inEntry(e, c.Err)
				}
			}
			if c.Err == nil {
				c.Frame = &frame
			}
		} else {
			c.Command, c.JSON, c.Err = x.Command(body, i)
		}
		if err == nil {
			err = c.Err
		}
		fn(i, c)
	}
	return x, err
}
