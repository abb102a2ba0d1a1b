package standby

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/seed"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

// page is a write of one page.
func (r *rig) page(n int64, b byte) change.Change {
	return r.log.Write("a", 4096*n, []byte(strings.Repeat(string(rune(b)), 4096)))
}

// begun is a rig with volume a, which follows.
func begun(t *testing.T) *rig {
	t.Helper()
	r := newRig(t)
	r.log.Volume("a", rigVolume)
	r.log.Frame(r.page(0, 'x'))
	r.log.Segment()
	r.open()
	r.must(r.settle())
	r.newest(1)
	return r
}

// TestDelay: what is younger than the delay is staged and not applied, and applied when it is
// old enough; a catch-up does not wait.
func TestDelay(t *testing.T) {
	r := begun(t)
	r.o.Delay = time.Hour
	r.open()
	r.now = r.log.Clock.Add(time.Minute)
	before := r.log.Point.LSN
	r.log.Frame(r.page(1, 'y'))
	r.log.Segment()
	r.must(r.settle())
	if at := r.check()["a"]; at != before || r.s.stage.total() == 0 {
		t.Errorf("at LSN %d with %d bytes staged, want %d", at, r.s.stage.total(), before)
	}
	if st := r.s.Status().Groups[0]; st.State != Following || st.LagSeconds < 1 || st.LagBytes == 0 {
		t.Errorf("%+v", st)
	}
	r.open() // staged is staged
	r.now = r.now.Add(2 * time.Hour)
	r.must(r.settle())
	r.newest(1)
	r.now = r.log.Clock
	r.log.Frame(r.page(1, 'z'))
	r.log.Segment()
	r.must(r.settle())
	held, err := r.s.CatchUp(t.Context(), r.log.Position)
	r.must(err)
	if h := held["a"]; h.LSN != r.log.Point.LSN || h.Hash != r.log.Point.Hash || h.Epoch != 1 ||
		h.Path != "/images/a" || h.Stream != r.log.Stream {
		t.Errorf("%+v", held)
	}
	r.newest(1)
	if err := r.s.Run(t.Context()); !fail.Is(err, fail.Refused) {
		t.Errorf("it runs after a catch-up: %v", err)
	}
}

// TestStoppedWhileApplying: an image that some of a batch was written to is at no point, before and after a
// restart, until the batch is finished.
func TestStoppedWhileApplying(t *testing.T) {
	r := begun(t)
	r.log.Frame(r.page(1, 'y'))
	r.log.Frame(r.page(2, 'z'))
	r.log.Segment()
	ctx, stop := context.WithCancel(t.Context())
	r.disk.before = func() error { stop(); return nil }
	if _, err := r.s.step(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	r.disk.before = nil
	for range 2 {
		if i := r.s.Images()["a"]; i.LSN != 0 || !i.Ours || !i.Whole {
			t.Errorf("%+v", i)
		}
		if held := r.s.holding(); len(held) > 0 {
			t.Errorf("%+v", held)
		}
		r.open()
	}
	r.must(r.settle())
	r.newest(1)
	if i := r.s.Images()["a"]; i.LSN != r.log.Point.LSN {
		t.Errorf("%+v", i)
	}
}

// TestBadEntry: an entry that cannot be opened stops the standby there, and what lies before it is applied,
// though it was fetched together.
func TestBadEntry(t *testing.T) {
	r := begun(t)
	r.s.cur.Volumes["a"].Size = 8192
	var good uint64
	for _, page := range []int64{0, 1, 5, 1} { // one of them lies outside
		r.log.Frame(r.page(page, 'y'))
		r.log.Segment()
		if page == 1 && good == 0 {
			good = r.log.Point.LSN
		}
	}
	r.s.width = 4
	for range 2 {
		if err := r.settle(); !fail.Is(err, fail.Damaged) || !strings.Contains(err.Error(), "outside its 8192 bytes") {
			t.Errorf("%v", err)
		}
	}
	if at := r.s.cur.stream(r.log.Stream).Applied.LSN; at != good {
		t.Errorf("applied to LSN %d, want %d", at, good)
	}
}

// TestEndBeforeApplied: where the end is seen behind objects that were only staged, not all was taken.
func TestEndBeforeApplied(t *testing.T) {
	r := begun(t)
	for i := range int64(2) {
		r.log.Frame(r.page(i, 'y'))
		r.log.Segment()
	}
	for r.s.fetched < r.log.Position {
		if _, err := r.s.fetch(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r.s.atEnd() {
			t.Errorf("at the end, with positions %d to %d not applied", r.s.cur.Position, r.s.fetched)
		}
	}
	r.must(r.settle())
	if !r.s.atEnd() {
		t.Error("not at the end")
	}
}

// TestDelayedCopy: a volume is copied as of a point that is as old as the delay, and follows
// when the point at which the following began is.
func TestDelayedCopy(t *testing.T) {
	r := newRig(t)
	r.log.Step = 10 * time.Minute
	r.log.Volume("a", rigVolume)
	for i := range int64(12) {
		r.log.Frame(r.page(i, 'a'+byte(i)))
	}
	r.log.Segment()
	r.now, r.o.Delay = r.log.Clock, time.Hour
	r.open()
	r.must(r.settle())
	v := r.s.cur.Volumes["a"]
	if v.Following || !v.Image || v.High != 6 { // of 12 frames, one in ten minutes
		t.Fatalf("%+v", v)
	}
	r.now = r.now.Add(61 * time.Minute)
	r.must(r.settle())
	r.newest(1)
	if r.disk.copies != 1 {
		t.Errorf("%d copies", r.disk.copies)
	}
}

// TestMissing: a position that is not there is waited for, is named as lost once another one
// proves it, and is never skipped.
func TestMissing(t *testing.T) {
	r := begun(t)
	before := r.log.Point.LSN
	hidden := r.log.Position
	for i := range int64(20) {
		r.log.Frame(r.page(i, 'q'))
		r.log.Segment()
	}
	name := objlog.ObjectName(hidden)
	body, err := objstore.ReadWhole(t.Context(), r.store, name, 1<<20)
	r.must(err)
	r.must(r.store.Delete(t.Context(), name))
	r.must(r.settle())
	r.now = r.now.Add(2 * time.Minute)
	if err := r.settle(); !fail.Is(err, fail.Damaged) || !strings.Contains(err.Error(), name) {
		t.Errorf("a lost position: %v", err)
	}
	if at := r.check()["a"]; at != before {
		t.Errorf("it went on to LSN %d without a position", at)
	}
	r.must(r.store.Create(t.Context(), name, body))
	r.must(r.settle())
	r.newest(1)
}

// TestDamage: an object that is damaged is named and never applied; when it is right again, the
// standby goes on.
func TestDamage(t *testing.T) {
	r := begun(t)
	before := r.log.Point.LSN
	position := r.log.Position
	r.log.Frame(r.page(1, 'y'))
	r.log.Segment()
	name := objlog.ObjectName(position)
	body, err := objstore.ReadWhole(t.Context(), r.store, name, 1<<20)
	r.must(err)
	random := rand.New(rand.NewPCG(seed.New(t), 1))
	for range 50 {
		bad := append([]byte{}, body...)
		bad[random.IntN(len(bad))] ^= 1 << random.IntN(8)
		if random.IntN(4) == 0 {
			bad = bad[:random.IntN(len(bad))]
		}
		r.must(r.store.Delete(t.Context(), name))
		r.must(r.store.Create(t.Context(), name, bad))
		if err := r.settle(); !fail.Is(err, fail.Damaged) && !fail.Is(err, fail.Unsupported) ||
			!strings.Contains(err.Error(), name) {
			t.Fatalf("damage: %v", err)
		}
		if at := r.check()["a"]; at != before {
			t.Fatalf("at LSN %d", at)
		}
	}
	r.must(r.store.Delete(t.Context(), name))
	r.must(r.store.Create(t.Context(), name, body))
	r.must(r.settle())
	r.newest(1)
}

// TestStagedDamage: what is staged and comes back damaged is read from the store again.
func TestStagedDamage(t *testing.T) {
	r := begun(t)
	r.o.Delay = time.Hour
	r.open()
	r.now = r.log.Clock
	r.log.Frame(r.page(1, 'y'))
	r.log.Segment()
	r.must(r.settle())
	path := r.s.stage.path(r.log.Position - 1)
	f, err := r.fs.Create(path, "")
	r.must(err)
	_, err = f.Write([]byte("nonsense"))
	r.must(errors.Join(err, f.Close()))
	r.open()
	r.now = r.now.Add(2 * time.Hour)
	r.must(r.settle())
	r.newest(1)
}

// TestResyncBudget: more is held of a resync than there is room for; what the images lack is
// read from the store at its end, and no image is copied anew.
func TestResyncBudget(t *testing.T) {
	r := begun(t)
	r.o.StageBytes = 64 << 10
	r.open()
	before := r.log.Point.LSN
	r.log.Leap(5)
	random := rand.New(rand.NewPCG(seed.New(t), 1))
	r.log.Random(random, 30)
	r.must(r.settle())
	if at := r.check()["a"]; at != before || r.s.stage.total() > 64<<10 {
		t.Errorf("at LSN %d, %d bytes staged", at, r.s.stage.total())
	}
	r.open()
	r.log.EndLeap()
	r.log.Segment()
	r.must(r.settle())
	r.newest(1)
	if r.disk.copies != 1 {
		t.Errorf("%d copies", r.disk.copies)
	}
}

// TestImageFails: an image that cannot be written does not hold up the others, and is made good.
func TestImageFails(t *testing.T) {
	r := begun(t)
	r.log.Volume("b", rigVolume)
	r.log.Frame(r.page(3, 'v'))
	r.log.Segment()
	r.must(r.settle())
	r.newest(2)
	r.log.Frame(r.page(1, 'y'))
	r.log.Segment()
	r.disk.fail = errors.New("no room")
	if err := r.settle(); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("an image that cannot be written: %v", err)
	}
	if at := r.check(); len(at) != 1 || at["b"] != r.log.Point.LSN {
		t.Errorf("%+v", at)
	}
	for _, v := range r.s.Status().Groups[0].Volumes {
		if v.Name == "a" && (v.State != Stalled || !strings.Contains(v.Reason, "no room") || v.LSN != 0) {
			t.Errorf("%+v", v)
		}
	}
	r.disk.fail = nil
	r.must(r.settle())
	r.newest(2)
	if r.disk.copies != 2 {
		t.Errorf("%d copies", r.disk.copies)
	}
}

// TestNotOurs: an image's place that holds something else is left as it is.
func TestNotOurs(t *testing.T) {
	r := newRig(t)
	r.disk.images["/images/a"] = &memImage{durable: []byte("a letter")}
	r.log.Volume("a", rigVolume)
	r.log.Frame(r.page(0, 'x'))
	r.log.Segment()
	r.open()
	if err := r.settle(); !fail.Is(err, fail.Refused) {
		t.Errorf("a place that is not empty: %v", err)
	}
	if string(r.disk.images["/images/a"].durable) != "a letter" {
		t.Error("it was overwritten")
	}
}

// TestRemoved: the image of a volume that was removed, or is no longer wanted, stays as it is.
func TestRemoved(t *testing.T) {
	r := begun(t)
	r.log.Volume("b", rigVolume)
	r.log.Frame(r.page(3, 'v'))
	r.log.Segment()
	r.must(r.settle())
	before := string(r.disk.images["/images/a"].content())
	r.log.Command(state.KindVolumeRemove, state.VolumeRemove{Name: "a"})
	r.log.Segment()
	r.must(r.settle())
	r.log.Frame(r.page(1, 'y'))
	r.log.Segment()
	r.must(r.settle())
	if at := r.check(); len(at) != 1 || at["b"] != r.log.Point.LSN {
		t.Errorf("%+v", at)
	}
	if string(r.disk.images["/images/a"].content()) != before {
		t.Error("the image of a removed volume was written to")
	}
	r.o.Want = func(*state.State) []Volume { return nil }
	r.open()
	if held, err := r.s.CatchUp(t.Context(), r.log.Position); err != nil || len(held) != 0 || len(r.disk.images) != 2 {
		t.Errorf("%v, %v, %d images", held, err, len(r.disk.images))
	}
}

// TestVoid: objects of a fenced writer are passed over.
func TestVoid(t *testing.T) {
	r := begun(t)
	zombie := *r.log
	r.log.Fence()
	zombie.Position = r.log.Position
	zombie.Images = map[string][]byte{"a": make([]byte, rigVolume)}
	zombie.Frame(change.Change{Kind: change.Write, Volume: zombie.Volumes["a"], Len: 4096,
		Data: [][]byte{make([]byte, 4096)}})
	zombie.Segment()
	r.log.Position = zombie.Position
	r.log.Frame(r.page(1, 'y'))
	r.log.Segment()
	r.must(r.settle())
	r.newest(1)
}

// TestRun: the goroutines of a running standby, with a catch-up that ends it; the race detector
// looks on.
func TestRun(t *testing.T) {
	r := newRig(t)
	r.log.Keeping = false
	r.o.MinPoll, r.o.MaxPoll = time.Millisecond, 5*time.Millisecond
	r.o.Hint = make(chan struct{})
	r.log.Volume("a", rigVolume)
	r.log.Frame(r.page(0, 'x'))
	r.log.Segment()
	r.open()
	done := make(chan error, 1)
	go func() { done <- r.s.Run(t.Context()) }()
	random := rand.New(rand.NewPCG(seed.New(t), 1))
	for i := range 30 {
		if i == 10 {
			r.log.Volume("b", rigVolume)
		}
		r.log.Random(random, 4)
		r.s.Status()
	}
	for whole := 0; whole < 2; { // what has no image is not waited for by CatchUp
		whole = 0
		for _, i := range r.s.Images() {
			if i.Whole {
				whole++
			}
		}
		time.Sleep(time.Millisecond)
	}
	held, err := r.s.CatchUp(t.Context(), r.log.Position)
	r.must(err)
	r.must(<-done)
	if len(held) != 2 || held["a"].LSN != r.log.Point.LSN {
		t.Errorf("%+v", held)
	}
	r.newest(2)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.s.CatchUp(ctx, r.log.Position+1); !fail.Is(err, fail.Retry) {
		t.Errorf("a position that does not come: %v", err)
	}
}

// TestAnother: the log of another journal in the place of the one that is followed is refused.
func TestAnother(t *testing.T) {
	r := begun(t)
	r.s.cur.Journal[0]++
	r.must(r.s.save(r.s.cur.clone(), false))
	r.open()
	r.log.Frame(r.page(1, 'y'))
	r.log.Segment()
	if err := r.settle(); !fail.Is(err, fail.Damaged) || !strings.Contains(err.Error(), "it is of journal") {
		t.Errorf("%v", err)
	}
}
