package gc

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

const grace = 30 * time.Minute

var keepTest = &state.Retention{EveryWriteSeconds: 2 * 3600, HourlySeconds: 12 * 3600, DailySeconds: 4 * 86400}

// retained sets the policy, and has the journal move the horizon now and then.
func retained(t *testing.T, folding bool) *testLog {
	l := newTestLog(t, folding)
	l.Step = 7 * time.Minute
	l.Command(state.KindGroupPut, state.Group{Name: "g", Ack: "local", Overflow: "throttle", PITR: state.PITRFold,
		Retention: keepTest})
	return l
}

func (l *testLog) horizon() { l.moveHorizon(keepTest.EveryWrite()) }

// moveHorizon says what the journal says: what the stream had a window ago.
func (l *testLog) moveHorizon(window time.Duration) {
	t := l.Clock.Add(-window)
	h := state.StreamHorizon{Groups: map[string]time.Time{"g": t}, Streams: map[change.StreamID]uint64{}}
	for lsn, at := range l.Times {
		if !at.After(t) && lsn > h.Streams[l.Stream] {
			h.Streams[l.Stream] = lsn
		}
	}
	l.Command(state.KindStreamHorizon, h)
	l.Segment()
}

func (l *testLog) options() CollectOptions {
	return CollectOptions{Options: Options{Now: func() time.Time { return l.Clock }}, Grace: grace,
		SparseBelow: DefaultSparseBelow, Lock: l.lock}
}

func (l *testLog) collect() *Report {
	l.t.Helper()
	rep, err := Collect(l.t.Context(), l.Store, l.options())
	if err != nil {
		l.t.Fatal(err)
	}
	if rep.Failed.Objects > 0 {
		l.t.Fatal(rep.FailedWhy)
	}
	return rep
}

// promised are the LSNs that must be points: every frame in the window, and bookmarks.
func (l *testLog) promised(bookmarks map[string]uint64) []uint64 {
	var out []uint64
	for lsn := range l.Exact {
		if l.Clock.Sub(l.Times[lsn]) < keepTest.EveryWrite() && l.History[lsn] != nil {
			out = append(out, lsn)
		}
	}
	for _, lsn := range bookmarks {
		out = append(out, lsn)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// checkOld asks for times of all the past: what is found must be what was, and no
// older than the policy allows.
func (l *testLog) checkOld(catalogs []time.Time) {
	l.t.Helper()
	in := l.open()
	v, err := in.Volume("v")
	if err != nil {
		l.t.Fatal(err)
	}
	start := l.Clock.Add(-time.Duration(keepTest.DailySeconds) * time.Second)
	for at := start; at.Before(l.Clock); at = at.Add(97 * time.Minute) {
		p, err := in.Resolve(l.t.Context(), v, at.Format(time.RFC3339Nano), l.Clock)
		if err != nil {
			if !fail.Is(err, fail.NotFound) && !fail.Is(err, fail.Refused) {
				l.t.Fatalf("at %v: %v", at, err)
			}
			continue
		}
		if p.Time.After(at) {
			l.t.Fatalf("at %v: a point of %v", at, p.Time)
		}
		want := l.History[p.LSN]["v"]
		img := make(memory, v.SizeBytes)
		if _, err := in.Restore(l.t.Context(), p, img); err != nil {
			l.t.Fatalf("at %v, LSN %d: %v", at, p.LSN, err)
		}
		if want == nil && p.LSN > 0 || p.LSN > 0 && !bytes.Equal(img, want) {
			l.t.Fatalf("at %v: LSN %d differs", at, p.LSN)
		}
		// The hours of the hourly window have a point each, where a catalog was made in them.
		if age := l.Clock.Sub(at); age < time.Duration(keepTest.HourlySeconds)*time.Second-time.Hour {
			hour := at.Truncate(time.Hour).Add(-time.Hour)
			for _, c := range catalogs {
				if c.After(hour) && c.Before(hour.Add(time.Hour)) && p.Time.Before(hour.Add(-2*time.Hour)) {
					l.t.Errorf("at %v: the point is of %v, and a catalog was made at %v", at, p.Time, c)
				}
			}
		}
	}
}

// TestCollect writes for some days, collects at random, and checks all promises after
// every run.
func TestCollect(t *testing.T) {
	for round := range 4 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			t.Parallel()
			l := retained(t, round%2 == 1)
			bookmarks, deleted, moved := map[string]uint64{}, 0, 0
			var catalogs []time.Time
			for i := range 60 {
				l.Random(l.r, 1+l.r.IntN(14))
				if l.r.IntN(8) == 0 {
					name := fmt.Sprint("b", i)
					l.Bookmark(name)
					bookmarks[name] = l.Point.LSN
					l.Segment()
				}
				if l.r.IntN(15) == 0 {
					for name := range bookmarks {
						l.Command(state.KindBookmarkRemove, state.BookmarkRemove{Name: name, Group: "g"})
						delete(bookmarks, name)
						break
					}
					l.Segment()
				}
				l.horizon()
				if l.r.IntN(3) == 0 {
					l.catalog()
					catalogs = append(catalogs, l.Clock)
				}
				if l.r.IntN(4) == 0 {
					dry := l.options()
					dry.DryRun = true
					would, err := Collect(t.Context(), l.Store, dry)
					if err != nil && !fail.Is(err, fail.NotFound) {
						t.Fatal(err)
					}
					rep := l.collect()
					catalogs = append(catalogs, l.Clock)
					if err == nil && would.Deleted.Objects > rep.Deleted.Objects {
						t.Errorf("a dry run would delete %+v, the run deleted %+v", would.Deleted, rep.Deleted)
					}
					deleted += rep.Deleted.Objects
					moved += rep.Packs.Objects
					l.spot(l.open(), l.promised(bookmarks))
					l.checkOld(catalogs)
				}
			}
			if deleted == 0 || moved == 0 {
				t.Errorf("%d deleted, %d packs", deleted, moved)
			}
			in := l.open()
			v, _ := in.Volume("v")
			if _, err := in.Resolve(t.Context(), v, "2", l.Clock); !fail.Is(err, fail.NotFound) ||
				!strings.Contains(fail.HintOf(err), "point") {
				t.Errorf("an LSN of days ago: %v, %s", err, fail.HintOf(err))
			}
		})
	}
}

// TestCollectSpace: what the store takes is near to what is needed, as the model counts
// it: incompressible blocks, overwritten at random.
func TestCollectSpace(t *testing.T) {
	l := newTestLog(t, false)
	l.Keeping = false
	l.Step = time.Minute
	l.Codec = change.CodecNone
	l.Command(state.KindGroupPut, state.Group{Name: "g", Ack: "local", Overflow: "throttle", PITR: state.PITREveryWrite,
		Retention: &state.Retention{EveryWriteSeconds: 3600}})
	const size, page = 16 << 20, 4096
	l.Volume("big", size)
	r := rand.NewChaCha8([32]byte{1})
	rnd := rand.New(r)
	written := map[time.Time]int64{}
	live := map[int64]bool{}
	for i := range 1200 {
		var changes []change.Change
		for range 32 {
			b := make([]byte, page)
			_, _ = r.Read(b)
			off := rnd.Int64N(size/page) * page
			live[off] = true
			changes = append(changes, l.Write("big", off, b))
		}
		l.Frame(changes...)
		written[l.Clock] += 32 * page
		if i%8 == 7 {
			l.Segment()
		}
		if i%100 == 99 {
			l.moveHorizon(time.Hour)
			l.collect()
		}
	}
	l.Clock = l.Clock.Add(grace)
	l.collect()
	l.Clock = l.Clock.Add(grace)
	l.collect()
	l.Keep()
	l.check(l.open(), []uint64{l.Point.LSN})
	history := int64(0)
	for at, n := range written {
		if l.Clock.Sub(at) <= time.Hour+grace*2 { // nothing was written in the time of grace
			history += n
		}
	}
	need, have := int64(len(live))*page+history, int64(0)
	kinds := map[string]int64{}
	err := filepath.WalkDir(l.dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			st, err := d.Info()
			if err != nil {
				return err
			}
			have += st.Size()
			kinds[filepath.Base(filepath.Dir(path))] += st.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ratio := float64(have) / float64(need)
	t.Logf("%d bytes for %d of live data and history: %.2f; %v", have, need, ratio, kinds)
	if ratio > 1.3 {
		t.Error("more than 1.3 times what is needed")
	}
}

// stopping is a store that fails from an operation on: as if the process had died.
type stopping struct {
	objstore.Store
	left atomic.Int64
}

func (s *stopping) step() error {
	if s.left.Add(-1) < 0 {
		return fail.New(fail.Internal, "stop", "here", "killed")
	}
	return nil
}

func (s *stopping) Create(ctx context.Context, name string, b []byte) error {
	if err := s.step(); err != nil {
		return err
	}
	return s.Store.Create(ctx, name, b)
}

func (s *stopping) Delete(ctx context.Context, name string) error {
	if err := s.step(); err != nil {
		return err
	}
	return s.Store.Delete(ctx, name)
}

// TestCollectDies stops collections at every operation that changes the store, and
// runs others beside them: nothing that is kept is lost, and a next run goes on.
func TestCollectDies(t *testing.T) {
	l := retained(t, false)
	l.Random(l.r, 40)
	bookmarks := map[string]uint64{}
	l.Bookmark("b")
	bookmarks["b"] = l.Point.LSN
	ops, done := 0, 0
	for stop := 0; done < 5; stop = (stop + 1) % 12 {
		l.Random(l.r, 6)
		l.horizon()
		s := &stopping{Store: l.Store}
		s.left.Store(int64(stop))
		_, err := Collect(t.Context(), s, l.options())
		if err == nil {
			done++
		}
		ops++
		l.spot(l.open(), l.promised(bookmarks))
		if l.r.IntN(3) == 0 {
			l.collect()
		}
		if ops > 300 {
			t.Fatal("no run ends")
		}
	}
	l.checkOld(nil)
	l.Clock = l.Clock.Add(grace)
	l.collect()
	l.Clock = l.Clock.Add(grace)
	l.collect()
	// Nothing is left behind: what is there is needed, or known to be dead.
	in := l.open()
	known := maps.Clone(in.Catalog.Dead)
	for _, dir := range []string{"map", "pack"} {
		err := filepath.WalkDir(filepath.Join(l.dir, dir), func(path string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil
			}
			name, _ := filepath.Rel(l.dir, path)
			needed := strings.HasPrefix(name, "pack/") && len(in.Catalog.Packs) > 0
			for _, s := range in.Catalog.Streams {
				for _, v := range s.Volumes {
					for _, y := range v.Layers {
						for _, p := range y.Objects {
							needed = needed || p.Name == name
						}
					}
				}
			}
			if _, dead := known[name]; !needed && !dead {
				t.Errorf("%s is left", name)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestCollectTogether: of two at once, one may be refused; nothing is lost.
func TestCollectTogether(t *testing.T) {
	l := retained(t, false)
	for range 12 {
		l.Random(l.r, 12)
		l.horizon()
		var errs [3]error
		done := make(chan int)
		for i := range errs {
			go func() {
				_, errs[i] = Collect(t.Context(), l.Store, l.options())
				done <- i
			}()
		}
		for range errs {
			<-done
		}
		for _, err := range errs {
			if err != nil && !fail.Is(err, fail.Retry) && !fail.Is(err, fail.NotFound) {
				t.Fatal(err)
			}
		}
		l.check(l.open(), l.promised(nil))
	}
	if n, err := catalog.List(t.Context(), l.Store); err != nil || len(n) == 0 {
		t.Error(n, err)
	}
}
