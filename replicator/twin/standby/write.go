package standby

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/image"
)

// file is an open image.
type file interface {
	WriteAt(p []byte, off int64) (int, error)
	WriteVector(parts [][]byte, off int64) error // one after another
	Zero(off, n int64) error
	Sync() error
	Close() error
}

// disk is where images are.
type disk interface {
	// Open opens a whole image of a volume.
	Open(path string, size int64) (file, error)
	// Check refuses a place that holds anything.
	Check(path string, size int64) error
	// Copy writes an image as of a point to a place that Check let pass, or going on from an
	// earlier Copy there; anew: whatever is there. It is durable when Copy returns how many bytes
	// of data it wrote.
	Copy(ctx context.Context, l *twin.Log, p twin.Point, path string, anew bool, run copyRun) (int64, error)
}

// copyRun says how a copy is made.
type copyRun struct {
	bytesPerSecond int64
	progress       twin.Progress
}

// osDisk are files and devices of the system.
type osDisk struct{}

func (osDisk) Open(path string, size int64) (file, error) { return image.InPlace(path, size) }

func (osDisk) Check(path string, size int64) error {
	t, err := image.Inspect(path, size)
	if err != nil {
		return err
	}
	return t.Refused(false)
}

func (osDisk) Copy(ctx context.Context, l *twin.Log, p twin.Point, path string, anew bool, run copyRun) (
	int64, error) {
	t, err := image.Inspect(path, p.Volume.SizeBytes)
	if err != nil {
		return 0, err
	}
	if err := t.Refused(true); err != nil { // somebody else's by now
		return 0, err
	}
	rep, err := image.Restore(ctx, l, p, t, image.Options{Overwrite: true, Resume: !anew, Restart: anew,
		BytesPerSecond: run.bytesPerSecond,
		Stage:          func(string) (twin.Progress, func()) { return run.progress, func() {} }})
	if err != nil {
		return 0, err
	}
	return rep.WrittenBytes, nil
}

// write writes what the batch has of each stream to the images of the volumes that follow, and
// syncs them. An image that cannot be written is followed no more until it is made good: it
// does not hold up the others. What cannot be read of the batch shows before anything is written.
func (b *batch) write(ctx context.Context, todo map[change.StreamID][]entryRef) error {
	if len(todo) == 0 {
		return nil
	}
	w := writing{b: b, g: &b.s.gathered, touched: map[string]file{}, failed: map[string]error{}}
	defer w.g.reset()
	if err := w.gather(ctx, todo, nil); err != nil {
		return err
	}
	if b.s.cur.Through < b.c.Position {
		note := b.s.cur.clone()
		note.Through = b.c.Position
		if err := b.s.save(note, false); err != nil {
			return err
		}
	}
	b.c.Through = b.c.Position
	if w.g.checking { // it is more than fits: once more, and written now and then
		w.g.reset()
		if err := w.gather(ctx, todo, w.flush); err != nil {
			return err
		}
	}
	if err := w.flush(ctx); err != nil {
		return err
	}
	for name, f := range w.touched {
		if w.failed[name] == nil {
			w.failed[name] = f.Sync()
		}
	}
	for name, err := range w.failed {
		if err == nil {
			continue
		}
		v := b.c.Volumes[name]
		was, now := b.s.cur.stream(v.Stream).Applied, b.c.stream(v.Stream).Applied
		v.Following, v.Low, v.High, v.Hash, v.End = false, was.LSN, now.LSN, now.Hash, b.c.Position
		b.s.closeFile(name)
		b.s.noteVolume(name, err)
		b.s.o.Logger.Error("an image cannot be written", "volume", name, "path", v.Path, "err", err)
	}
	return nil
}

// writing is one run of write.
type writing struct {
	b       *batch
	g       *gather
	touched map[string]file
	failed  map[string]error
}

// gather reads all that is to be done. Where it is too much to be kept, flush writes what was gathered;
// without flush the rest is only looked at.
func (w *writing) gather(ctx context.Context, todo map[change.StreamID][]entryRef,
	flush func(context.Context) error) error {
	for _, id := range sortedStreams(todo) {
		numbers := w.b.c.numbers(id)
		for i := range todo[id] {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := w.entry(ctx, id, &todo[id][i], numbers); err != nil {
				return err
			}
			if w.g.bytes < w.g.limit {
				continue
			}
			if flush == nil {
				w.g.reset()
				w.g.checking = true
			} else if err := flush(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// entry gathers one frame or fold. What it names outside of a volume is damage.
func (w *writing) entry(ctx context.Context, id change.StreamID, e *entryRef, numbers map[uint32]string) error {
	b := w.b
	o, err := b.object(ctx, e.position)
	if err != nil {
		return err
	}
	if e.entry >= len(o.Entries) || o.Entries[e.entry].Stream != id || o.Entries[e.entry].Index != e.index {
		return errDamaged(b.s.o.Store.URL(), e.position, "it has no entry of journal index %d any more", e.index)
	}
	err = b.s.decoder.changes(o, e.entry, w.g.memory, func(volume uint32, off, n int64, data []byte) error {
		name, ours := numbers[volume]
		if !ours {
			return nil
		}
		if size := b.c.Volumes[name].Size; off+n > size {
			return fail.New(fail.Damaged, "apply", "volume "+name,
				fmt.Sprintf("a record of %d bytes at %d lies outside its %d bytes", n, off, size))
		}
		w.g.add(name, off, n, data)
		return nil
	})
	if err != nil {
		return &badEntry{e.position, fail.At("apply", fmt.Sprintf("%s/%s at byte %d", b.s.o.Store.URL(),
			objlog.ObjectName(e.position), o.Entries[e.entry].Offset), err)}
	}
	return nil
}

// flush writes what was gathered.
func (w *writing) flush(ctx context.Context) error {
	for _, name := range w.g.names() {
		if w.failed[name] != nil {
			continue
		}
		f, err := w.b.s.open(name, w.b.c.Volumes[name])
		if err == nil {
			var n int64
			w.touched[name] = f
			n, err = w.g.write(ctx, name, f)
			w.b.s.applied.Add(n)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		w.failed[name] = fail.Wrap(fail.Full, "write", "image", err)
	}
	w.g.reset()
	return nil
}

// open returns the open image of a volume.
func (s *Standby) open(name string, v *volumeCursor) (file, error) {
	if f := s.files[name]; f != nil {
		return f, nil
	}
	f, err := s.o.disk.Open(v.Path, v.Size)
	if err == nil {
		s.files[name] = f
	}
	return f, err
}

// wantIn takes what is wanted into a cursor, by the control state.
func (s *Standby) wantIn(c *cursor) {
	wanted := map[string]bool{}
	for _, w := range s.o.Want(s.state) {
		v := s.state.Volumes[w.Name]
		if v == nil || v.Removed {
			continue
		}
		wanted[w.Name] = true
		have := c.Volumes[w.Name]
		// A number that a fence cut off is given again.
		if have == nil || have.Number != v.Number || have.Stream != v.Stream || have.Size != v.SizeBytes ||
			have.Path != w.Path {
			s.closeFile(w.Name)
			c.Volumes[w.Name] = &volumeCursor{Number: v.Number, Stream: v.Stream, Size: v.SizeBytes, Path: w.Path}
		}
	}
	for name := range c.Volumes {
		if !wanted[name] {
			s.closeFile(name)
			delete(c.Volumes, name)
		}
	}
}

// want is wantIn of the present cursor; it becomes durable with the next.
func (s *Standby) want() {
	if s.cur.Volumes == nil {
		s.cur.Volumes = map[string]*volumeCursor{}
	}
	s.wantIn(s.cur)
}

// retryAfter is how long a volume that cannot be brought to its point waits.
const retryAfter = 5 * time.Second

// notYet is of a volume that has to wait for the log.
type notYet struct{ why string }

func (e notYet) Error() string { return e.why }

func isNotYet(err error) bool { var e notYet; return errors.As(err, &e) }
