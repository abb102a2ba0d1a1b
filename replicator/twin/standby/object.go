package standby

import (
	"fmt"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/state"
)

// object is one of the log. All its bytes are checked; what its blocks decompress to shows when they are
// opened, before anything of a batch is written.
type object struct {
	*segment.Index
	raw      []byte
	plain    int64         // bytes of its frames and folds, decompressed
	prev     []change.Hash // by entry: the hash that a frame or fold follows
	commands []command     // by entry
}

type command struct {
	kind state.Kind
	json []byte
}

// parse checks a whole object that lies at a position. Errors: fail.Damaged with the offset.
func parse(position uint64, raw []byte) (*object, error) {
	o := &object{raw: raw}
	grow := func(i int) {
		for len(o.prev) <= i {
			o.prev, o.commands = append(o.prev, change.Hash{}), append(o.commands, command{})
		}
	}
	x, err := segment.WalkSealed(raw, func(i int, c segment.Checked) {
		grow(i)
		switch {
		case c.Frame != nil:
			o.prev[i] = c.Frame.Prev
			o.plain += int64(c.Frame.PlainBytes)
		case c.Fold != nil:
			o.prev[i] = c.Fold.Prev
			o.plain += c.Fold.PlainBytes
		default:
			o.commands[i] = command{c.Command, c.JSON}
		}
	})
	if err != nil {
		return nil, err
	}
	if x.Position != position {
		return nil, fail.New(fail.Damaged, "read", "", "the object says that it is position "+
			objlog.ObjectName(x.Position))
	}
	o.Index = x
	return o, nil
}

// decoder is what entries are opened with; its memory is reused.
type decoder struct {
	frame change.Frame
	fold  segment.Fold
}

// changes calls fn with what entry i changes, in order, in memory that it asks for; data is nil where
// bytes become zeros.
func (d *decoder) changes(o *object, i int, memory func(n int) []byte,
	fn func(volume uint32, off, n int64, data []byte) error) (err error) {
	e := &o.Entries[i]
	body := o.raw[e.Offset:][:e.Bytes]
	if e.Kind == segment.FoldEntry {
		return d.foldChanges(o, i, body, memory, fn)
	}
	if err := o.Frame(&d.frame, body, i); err != nil {
		return err
	}
	plain, err := d.frame.Plain(memory(int(d.frame.PlainBytes)))
	if err != nil {
		return err
	}
	for k := range d.frame.Records {
		r := &d.frame.Records[k]
		switch r.Kind {
		case change.Write:
			err = fn(r.Volume, r.Off, int64(r.Len), d.frame.Data(k, plain))
		case change.Zero, change.Trim:
			err = fn(r.Volume, r.Off, int64(r.Len), nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) foldChanges(o *object, i int, body []byte, memory func(n int) []byte,
	fn func(volume uint32, off, n int64, data []byte) error) error {
	if err := o.Fold(&d.fold, body, i); err != nil {
		return err
	}
	for part := range d.fold.Parts() {
		extents, _, err := d.fold.Part(part, memory(d.fold.PartBytes(part)))
		if err != nil {
			return err
		}
		for k := range extents {
			x := &extents[k]
			if err := fn(x.Volume, x.Off, x.Len, x.Data); err != nil {
				return err
			}
		}
	}
	return nil
}

// errDamaged is damage at a position.
func errDamaged(url string, position uint64, format string, args ...any) error {
	return fail.New(fail.Damaged, "follow", url+"/"+objlog.ObjectName(position), fmt.Sprintf(format, args...))
}
