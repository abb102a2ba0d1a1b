package gc

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// A bookmark whose command comes in the segment behind a catalog that holds its frame.
func TestLateBookmark(t *testing.T) {
	l := retained(t, false)
	l.Random(l.r, 5)
	l.Frame(change.Change{Kind: change.Mark, Data: [][]byte{[]byte("b")}})
	l.Keep()
	lsn, at := l.Point.LSN, l.Clock
	l.Frame(l.Write("v", 0, []byte("next")))
	l.Segment()
	l.catalog() // a gc runs here
	l.Command(state.KindBookmarkAdd, state.Bookmark{Name: "b", Group: "g", Stream: l.Stream, LSN: lsn, Epoch: 1,
		Time: at})
	l.Segment()
	in := l.open()
	v, _ := in.Volume("v")
	if _, err := in.Resolve(t.Context(), v, "b", l.Clock); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		l.Random(l.r, 20)
		l.horizon()
		l.collect()
	}
	in = l.open()
	v, _ = in.Volume("v")
	if _, err := in.Resolve(t.Context(), v, "b", l.Clock); err != nil {
		t.Fatalf("the bookmark is lost: %v", err)
	}
	l.check(in, []uint64{lsn})
}

// hook runs fn once, after a catalog was created.
type hook struct {
	objstore.Store
	fn func()
}

func (h *hook) Create(ctx context.Context, name string, b []byte) error {
	err := h.Store.Create(ctx, name, b)
	if err == nil && h.fn != nil && strings.HasPrefix(name, "catalog/") {
		fn := h.fn
		h.fn = nil
		fn()
	}
	return err
}

// The uploader writes a segment with a command between Catalog and Open of one Collect.
func TestLogMovesDuringCollect(t *testing.T) {
	l := retained(t, false)
	for range 4 {
		l.Random(l.r, 20)
		l.horizon()
		l.collect()
	}
	l.Random(l.r, 20)
	l.horizon()
	h := &hook{Store: l.Store, fn: func() { l.Bookmark("late"); l.Segment(); l.Random(l.r, 5) }}
	if _, err := Collect(t.Context(), h, l.options()); err != nil {
		t.Fatal(err)
	}
	out, err := twin.Open(t.Context(), l.Store, nil)
	if err != nil {
		t.Fatal(err)
	}
	if out.Damage != nil {
		t.Fatalf("a whole log is called damaged: %v", out.Damage)
	}
}

// flaky fails one ranged read of a log object (not of its tail).
type flaky struct {
	objstore.Store
	name        string
	fails, seen int
}

func (f *flaky) Read(ctx context.Context, name string, off, n int64, buf []byte) ([]byte, error) {
	if name == f.name && f.fails > 0 {
		f.seen++

		if f.seen == 1 { // the footer
			return f.Store.Read(ctx, name, off, n, buf)
		}
		f.fails--
		return nil, fail.New(fail.Retry, "read", name, "connection reset")
	}
	return f.Store.Read(ctx, name, off, n, buf)
}

func TestTransientReplay(t *testing.T) {
	l := retained(t, false)
	l.Random(l.r, 10)
	l.catalog()
	l.Random(l.r, 3)
	l.Bookmark("x")
	noise := make([]byte, 200<<10) // the commands do not come with the footer
	rand.NewChaCha8([32]byte{}).Read(noise)
	l.Frame(l.Write("v", 0, noise))
	pos := l.Position
	l.Segment()
	for range 10 {
		l.Frame(l.Write("v", 0, []byte("more")))
		l.Segment()
	}
	l.Keep()
	f := &flaky{Store: l.Store, name: fmt.Sprintf("log/%020d", pos), fails: 1}
	got, err := Catalog(t.Context(), f, l.options().Options)
	t.Logf("Catalog: %+v %v; pos %d", got, err, pos)
	cc, _ := catalog.Load(t.Context(), l.Store, got.Number)
	for _, m := range cc.ReadPoints {
		t.Logf("mark %+v", m)
	}
	if f.fails != 0 {
		t.Fatal("not hit")
	}
	for range 3 { // later runs, with a healthy store, do not mend it
		_, err := Catalog(t.Context(), l.Store, l.options().Options)
		t.Log(err)
	}
	out, err := twin.Open(t.Context(), l.Store, nil)
	if err != nil {
		t.Fatal(err)
	}
	if out.Damage != nil || out.Void != 0 {
		t.Errorf("the log is whole, but: damage %v, void %d, end %d of %d", out.Damage, out.Void, out.End, l.Position)
	}
	v, _ := out.Volume("v")
	p, err := out.Resolve(t.Context(), v, "", l.Clock)
	if err != nil || p.LSN != l.Point.LSN {
		t.Errorf("newest point %d of %d: %v", p.LSN, l.Point.LSN, err)
	}
}

// gc's clock is ahead: hourly and daily points go before their time.
func TestClockAhead(t *testing.T) {
	l := retained(t, false)
	for range 10 {
		l.Random(l.r, 6)
		l.horizon()
		l.collect()
	}
	before := len(l.open().Catalog.Streams[l.Stream].Retained)
	o := l.options()
	o.Now = func() time.Time { return l.Clock.Add(100 * 24 * time.Hour) }
	rep, err := Collect(t.Context(), l.Store, o)
	if err != nil {
		t.Fatal(err)
	}
	after := len(l.open().Catalog.Streams[l.Stream].Retained)
	t.Logf("kept %d -> %d, dropped %d, deleted %+v", before, after, len(rep.Dropped), rep.Deleted)
	for _, d := range rep.Dropped {
		if age := l.Clock.Sub(d.Time); age < 12*time.Hour-time.Hour {
			t.Errorf("LSN %d, %v old by the journal's clock, dropped", d.LSN, age)
		}
	}
	if rep.Deleted.Objects > 0 {
		t.Logf("and deleted before the grace: %+v", rep.Deleted)
	}
}

// An image of a bookmark, opened before, read after collections and grace.
func TestLongMount(t *testing.T) {
	l := retained(t, false)
	l.Random(l.r, 5)
	l.catalog()
	l.Random(l.r, 5)
	l.Bookmark("b")
	l.Segment()
	l.catalog()
	in := l.open()
	v, _ := in.Volume("v")
	p, err := in.Resolve(t.Context(), v, "b", l.Clock)
	if err != nil {
		t.Fatal(err)
	}
	img, err := in.Image(t.Context(), p, "")
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	for range 12 {
		l.Random(l.r, 30)
		l.horizon()
		l.collect()
		if _, err := img.Map.Leaf(t.Context(), 0); fail.Is(err, fail.NotFound) {
			if err := img.Refresh(t.Context(), img.Catalog(), err); err != nil {
				t.Fatal(err)
			}
			if _, err := img.Map.Leaf(t.Context(), 0); err != nil {
				t.Fatalf("the mount of a bookmark that is kept fails: %v", err)
			}
		}
		img.Map.Replace(img.Map)
	}
}

// The journal is stopped for longer than the window and the grace: is the object before its next position still there?
func TestIdleEnd(t *testing.T) {
	l := retained(t, false)
	l.Random(l.r, 20)
	l.Clock = l.Clock.Add(3 * time.Hour)
	l.horizon()
	for range 5 {
		l.Clock = l.Clock.Add(3 * time.Hour)
		l.collect()
	}
	in := l.open()
	t.Logf("marks %d, floor %d, log ends at %d", len(in.Catalog.ReadPoints), in.Catalog.ReadPoints[0].Position,
		l.Position)
	names, _ := filepath.Glob(filepath.Join(l.dir, "log", "*"))
	if _, err := os.Stat(filepath.Join(l.dir, fmt.Sprintf("log/%020d", l.Position-1))); err != nil {
		t.Errorf("the log's last object is deleted: %v; left: %v", err, names)
	}
	tot, err := twin.Examine(t.Context(), l.Store, func(o *twin.Object) error { return nil })
	t.Log(tot, err)
	if tot.Err() != nil {
		t.Error(tot.Err())
	}
}

// A policy that is made longer again: the points in the new window that were there stay restorable.
func TestLonger(t *testing.T) {
	l := retained(t, false)
	for range 6 {
		l.Random(l.r, 12)
		l.horizon()
		l.collect()
	}
	l.Command(state.KindGroupPut, state.Group{Name: "g", Ack: "local", Overflow: "throttle", PITR: state.PITRFold,
		Retention: &state.Retention{EveryWriteSeconds: 8 * 3600, DailySeconds: 10 * 86400}})
	l.Segment()
	l.Random(l.r, 5)
	for range 8 {
		l.Clock = l.Clock.Add(20 * time.Minute)
		l.Random(l.r, 3)
		l.collect()
		in := l.open()
		v, _ := in.Volume("v")
		for lsn := range l.History {
			p, err := in.Resolve(t.Context(), v, fmt.Sprint(lsn), l.Clock)
			if err != nil {
				continue
			}
			img := make(memory, v.SizeBytes)
			if _, err := in.Restore(t.Context(), p, img); err != nil {
				t.Fatalf("LSN %d: %v", lsn, err)
			}
			if !bytes.Equal(img, l.History[lsn]["v"]) {
				t.Fatalf("LSN %d differs", lsn)
			}
		}
		l.checkOld(nil)
	}
}
