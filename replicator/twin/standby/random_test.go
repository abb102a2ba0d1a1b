package standby

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/seed"
	"github.com/pollux-dr/pollux/replicator/logtest"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin/gc"
)

// randomRounds is how many worlds TestRandom and TestCrash look at each.
var randomRounds = flag.Int("standby.rounds", 12, "random logs to follow")

// world changes a log at random, in all ways that a log can change.
type world struct {
	*rig
	r         *rand.Rand
	places    []*logtest.Place
	resyncing bool
	volumes   int
	backs     int
}

const worldWindow = 2 * time.Hour

func newWorld(t *testing.T, n uint64) *world {
	w := &world{rig: newRig(t), r: rand.New(rand.NewPCG(n, 2))}
	w.log.Step = 7 * time.Minute
	w.limit = []int64{0, 4 << 10, 20 << 10}[w.r.IntN(3)]
	w.log.Keeping = false
	w.log.Command(state.KindGroupPut, state.Group{Name: "g", Ack: "local", Overflow: "throttle", PITR: state.PITRFold,
		Retention: &state.Retention{EveryWriteSeconds: int64(worldWindow.Seconds())}})
	w.volume()
	w.log.Random(w.r, 3)
	w.tick()
	return w
}

func (w *world) tick() { w.now = w.log.Clock.Add(time.Second) }

func (w *world) volume() {
	w.volumes++
	w.log.Volume(fmt.Sprintf("v%d", w.volumes), []int64{1 << 20, 300 << 10, 1<<20 + 512}[w.r.IntN(3)])
}

// step changes the log once, and says how.
func (w *world) step() string {
	defer w.tick()
	w.log.Folding = w.r.IntN(3) == 0
	switch n := w.r.IntN(20); {
	case n < 10:
		w.log.Random(w.r, 1+w.r.IntN(8))
		return "frames"
	case n < 11 && len(w.log.Volumes) < 4:
		w.volume()
		w.log.Random(w.r, 2)
		return "a volume"
	case n < 13 && !w.resyncing:
		if w.r.IntN(2) == 0 {
			w.places = append(w.places, w.log.Here())
			return "a place"
		}
		w.log.Folding = false
		name := slices.Sorted(maps.Keys(w.log.Volumes))[0]
		w.log.Frame(w.log.Write(name, 4096*w.r.Int64N(60), bytes.Repeat([]byte{'m'}, 4096)))
		w.places = append(w.places, w.log.Here())
		w.log.Frame(w.log.Write(name, 4096*w.r.Int64N(60), bytes.Repeat([]byte{'n'}, 4096)))
		w.log.Segment()
		return "a place within an object"
	case n < 15 && len(w.places) > 0 && !w.resyncing:
		i := w.r.IntN(len(w.places))
		w.log.GoBack(w.places[i])
		w.places = w.places[:i]
		w.backs++
		if w.r.IntN(2) == 0 {
			w.log.Random(w.r, 1+w.r.IntN(4))
		}
		return "a fence that goes back"
	case n < 16:
		w.log.Leap(uint64(1 + w.r.IntN(9)))
		w.places = nil
		w.resyncing = true
		w.log.Random(w.r, 1+w.r.IntN(4))
		return "a gap"
	case n < 19 && w.resyncing:
		w.log.Random(w.r, 1)
		w.log.EndLeap()
		w.resyncing = false
		w.log.Random(w.r, 1)
		return "the end of a resync"
	default:
		w.collect()
		return "gc"
	}
}

// collect runs garbage collection with the horizon as the journal moves it.
func (w *world) collect() {
	w.t.Helper()
	at := w.log.Clock.Add(-worldWindow)
	h := state.StreamHorizon{Groups: map[string]time.Time{"g": at}, Streams: map[change.StreamID]uint64{}}
	for lsn, t := range w.log.Times {
		if !t.After(at) && lsn > h.Streams[w.log.Stream] {
			h.Streams[w.log.Stream] = lsn
		}
	}
	w.log.Command(state.KindStreamHorizon, h)
	w.log.Segment()
	w.places = nil // a fence goes back behind no catalog
	_, err := gc.Collect(w.t.Context(), w.store, gc.CollectOptions{Grace: time.Hour, SparseBelow: gc.DefaultSparseBelow,
		Options: gc.Options{Dir: w.t.TempDir(), Now: func() time.Time { return w.log.Clock }}})
	w.must(err)
}

// TestRandom: whatever happens to the log, each image that follows is what the twin restores
// at its point; at the end all have all of it.
func TestRandom(t *testing.T) {
	base := seed.New(t)
	rounds := uint64(*randomRounds)
	if testing.Short() {
		rounds = min(rounds, 3)
	}
	for i := range rounds {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			w := newWorld(t, base+i)
			if w.r.IntN(3) == 0 {
				w.o.StageBytes = 64 << 10
			}
			w.open()
			var done []string
			for range 40 {
				done = append(done, w.step())
				switch w.r.IntN(6) {
				case 0: // it is not running
				case 1:
					w.open()
					fallthrough
				default:
					if err := w.settle(); err != nil {
						t.Fatalf("%v: %v", done, err)
					}
					w.check()
				}
				if t.Failed() {
					t.Fatal(done)
				}
			}
			if w.resyncing {
				w.log.Random(w.r, 1)
				w.log.EndLeap()
				w.log.Random(w.r, 1)
			}
			w.log.Random(w.r, 1)
			w.tick()
			w.must(w.settle())
			w.newest(len(w.log.Volumes))
			t.Logf("%d whole copies of %d volumes, %d fences went back; %v", w.disk.copies, w.volumes, w.backs,
				slices.Compact(done))
		})
	}
}
