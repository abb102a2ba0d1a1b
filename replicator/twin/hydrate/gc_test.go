package hydrate

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/seed"
	"github.com/pollux-dr/pollux/replicator/logtest"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin/gc"
)

// TestCollected: while an image is filled, all that it is filled with is overwritten, days go by,
// and garbage collection takes what the group's retention does not keep, again and again. With a
// bookmark at the point every byte comes; without one, what is gone is an error, and nothing is
// read that the volume never held.
func TestCollected(t *testing.T) {
	for _, kept := range []bool{true, false} {
		const size = 4 << 20
		g := newRig(t, seed.New(t), size, func(l *logtest.Log, r *rand.Rand) {
			l.Command(state.KindGroupPut, state.Group{Name: "g", Ack: "local", Overflow: "throttle",
				PITR: state.PITRFold, Retention: &state.Retention{EveryWriteSeconds: 60}})
			large(l, r)
		})
		l := g.log
		if kept {
			l.Command(state.KindBookmarkAdd, state.Bookmark{Name: "failover-2", Group: "g", Stream: l.Stream,
				LSN: l.Point.LSN, Time: l.Clock})
		}
		g.create()
		g.compare(0, 64<<10)
		var deleted int
		for range 4 {
			before := l.Point.LSN
			large(l, g.r)
			l.Clock = l.Clock.Add(48 * time.Hour)
			l.Command(state.KindStreamHorizon, state.StreamHorizon{Groups: map[string]time.Time{"g": l.Clock},
				Streams: map[change.StreamID]uint64{l.Stream: before}})
			l.Frame(l.Write("v", 0, []byte("later")))
			l.Segment()
			rep, err := gc.Collect(t.Context(), g.store.Store, gc.CollectOptions{SparseBelow: gc.DefaultSparseBelow,
				Options: gc.Options{Dir: t.TempDir(), Now: func() time.Time { return l.Clock }}})
			if err != nil {
				t.Fatal(err)
			}
			deleted += rep.Deleted.Objects
			if kept {
				g.compare(g.somewhere())
			}
		}
		if deleted == 0 {
			t.Error("nothing was deleted: it shows nothing")
		}
		if kept {
			g.hydrate()
			g.stop()
			continue
		}
		failed := 0
		for off := int64(0); off < size; off += 64 << 10 {
			got := make([]byte, 64<<10)
			switch err := g.ReadAt(got, off); {
			case fail.Is(err, fail.Damaged):
				failed++
			case err != nil:
				t.Error(err)
			case !bytes.Equal(got, g.want[off:][:len(got)]):
				t.Errorf("at %d the volume never held that", off)
			}
		}
		if failed == 0 {
			t.Error("it is all there without a bookmark: it shows nothing")
		}
		g.stop()
	}
}
