package segment

import (
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/state"
)

// Checked is an entry's content, every checksum of it checked.
type Checked struct {
	Frame   *change.Frame // of a frame entry; valid until the next call
	Fold    *Fold         // of a fold, the same
	Command state.Kind    // of a command entry
	JSON    []byte        // of a command entry, in the object's memory
	Err     error         // what is wrong with it: then nothing else is set
}

// Walk checks a whole object down to the plain bytes of each frame. It calls fn
// for every entry, in journal order, damaged ones included, and returns the
// first damage that it found. The Index is nil where head or footer is damaged.
func Walk(obj []byte, fn func(i int, c Checked)) (*Index, error) { return walk(obj, false, fn) }

// WalkSealed is Walk for who opens each entry by itself later: every byte is checked, by the digests of
// frames and folds, and no block is decompressed.
func WalkSealed(obj []byte, fn func(i int, c Checked)) (*Index, error) { return walk(obj, true, fn) }

func walk(obj []byte, sealed bool, fn func(i int, c Checked)) (*Index, error) {
	x, err := Parse(obj)
	if err != nil {
		return nil, err
	}
	w := walker{x: x, sealed: sealed}
	for i := range x.Entries {
		c := w.entry(obj, i)
		if err == nil {
			err = c.Err
		}
		fn(i, c)
	}
	if err == nil {
		err = x.checkTables(obj)
	}
	return x, err
}

// walker keeps what one entry after another is read into.
type walker struct {
	x      *Index
	sealed bool
	frame  change.Frame
	fold   Fold
	plain  []byte
}

func (w *walker) entry(obj []byte, i int) (c Checked) {
	e := &w.x.Entries[i]
	body := obj[e.Offset:][:e.Bytes]
	switch e.Kind {
	case FrameEntry:
		if c.Err = w.x.Frame(&w.frame, body, i); c.Err != nil {
			return c
		}
		if !w.sealed {
			w.plain, c.Err = w.frame.Plain(w.plain)
		}
		if c.Err == nil {
			c.Frame = &w.frame
		}
	case FoldEntry:
		if c.Err = w.x.Fold(&w.fold, body, i); c.Err != nil {
			return c
		}
		c.Err = w.fold.overlap()
		for part := range w.fold.Parts() {
			if c.Err != nil || w.sealed {
				break
			}
			_, w.plain, c.Err = w.fold.Part(part, w.plain)
		}
		if c.Err == nil {
			c.Fold = &w.fold
		}
	default:
		c.Command, c.JSON, c.Err = w.x.Command(body, i)
		return c
	}
	if c.Err != nil {
		c.Err = inEntry(e, c.Err)
	}
	return c
}
