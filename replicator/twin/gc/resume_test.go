package gc

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// zeroing is a memory that a restore over a base may write to.
type zeroing struct{ memory }

func (z zeroing) Zero(off, n int64) error {
	clear(z.memory[off : off+n])
	return nil
}

var errEnough = errors.New("enough")

// TestResumeAfterGC ends restores anywhere, collects so that what is needed lies
// elsewhere, and goes on, at the same point or another one.
func TestResumeAfterGC(t *testing.T) {
	for round := range 4 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			t.Parallel()
			l := retained(t, round%2 == 1)
			l.Command(state.KindGroupPut, state.Group{Name: "g", Ack: "local", Overflow: "throttle",
				PITR: state.PITRFold, Retention: &state.Retention{EveryWriteSeconds: 3600}})
			points := map[string]uint64{}
			whole := round%3 == 0 // the log stays, and is read without catalogs now and then
			upkeep := func() {
				l.Random(l.r, 6)
				if l.r.IntN(3) == 0 {
					name := fmt.Sprint("b", len(points))
					l.Bookmark(name)
					points[name] = l.Point.LSN
					l.Segment()
				}
				l.moveHorizon(time.Hour)
				o := l.options()
				o.SparseBelow = 0.5 + l.r.Float64() // above 1: moved though there is no need
				if o.Grace = 0; whole {
					o.Grace = 1000 * time.Hour
				}
				for range 2 {
					if _, err := Collect(t.Context(), l.Store, o); err != nil {
						t.Fatal(err)
					}
					for _, p := range l.open().Catalog.Packs {
						for _, old := range p.Moved {
							if number, ok := old.Pack(); ok && number >= p.Number {
								t.Errorf("pack %d was moved back, to %d", number, p.Number)
							}
						}
					}
				}
			}
			for range 4 {
				upkeep()
			}
			var base *twin.Base
			at := "" // often the same point again: what is between two is soon not kept
			img := zeroing{make(memory, l.Sizes["v"])}
			var err error
			for step := range 40 {
				if base != nil && base.Done == twin.Whole && l.r.IntN(4) > 0 {
					clear(img.memory)
					base = nil
				}
				if base == nil || l.r.IntN(4) == 0 {
					at = ""
					for name := range points {
						at = name
						break
					}
				}
				in := l.open()
				if whole && l.r.IntN(2) == 0 {
					if in, err = twin.OpenWhole(t.Context(), l.Store, nil); err != nil {
						t.Fatal(err)
					}
				}
				v, _ := in.Volume("v")
				p, err := in.Resolve(t.Context(), v, at, l.Clock)
				if err != nil {
					t.Fatal(err)
				}
				pl, err := in.Plan(t.Context(), p, base, t.TempDir())
				if base != nil && err != nil { // what was written between is not kept: from the beginning
					clear(img.memory)
					base = nil
					pl, err = in.Plan(t.Context(), p, nil, t.TempDir())
				}
				if err != nil {
					t.Fatal(err)
				}
				left, jobs := pl.Left(), 1+l.r.IntN(4)
				_, err = pl.Restore(t.Context(), img, twin.Run{Done: func(b twin.Base) error {
					left = b
					if jobs--; jobs == 0 && b.Done != twin.Whole {
						return errEnough
					}
					return nil
				}})
				if errors.Is(err, errEnough) {
					base = &left
				} else if err != nil {
					t.Fatal(err)
				} else {
					if !bytes.Equal(img.memory, l.History[p.LSN]["v"]) {
						t.Fatalf("step %d, at LSN %d: the image differs", step, p.LSN)
					}
					base = twin.Complete(p.LSN)
				}
				if err := pl.Close(); err != nil {
					t.Fatal(err)
				}
				for range l.r.IntN(3) {
					upkeep()
				}
			}
		})
	}
}

// TestRestoreDuringGC collects, without any grace, while restores run: what a restore
// needs is deleted before its eyes, and it finds it where it is now.
func TestRestoreDuringGC(t *testing.T) {
	l := retained(t, false)
	l.Command(state.KindGroupPut, state.Group{Name: "g", Ack: "local", Overflow: "throttle", PITR: state.PITRFold,
		Retention: &state.Retention{EveryWriteSeconds: 3600}})
	upkeep := func() {
		l.Random(l.r, 25)
		l.moveHorizon(time.Hour)
		o := l.options()
		o.Grace, o.SparseBelow = 0, 2
		for range 2 {
			if _, err := Collect(t.Context(), l.Store, o); err != nil {
				t.Fatal(err)
			}
		}
	}
	again := 0
	for i := 0; i < 15 || again == 0 && i < 100; i++ {
		l.Random(l.r, 40)
		name := fmt.Sprint("b", i)
		l.Bookmark(name)
		lsn := l.Point.LSN
		l.Segment()
		in := l.open()
		v, _ := in.Volume("v")
		p, err := in.Resolve(t.Context(), v, name, l.Clock)
		if err != nil {
			t.Fatal(err)
		}
		pl, err := in.Plan(t.Context(), p, nil, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		img, when, before := zeroing{make(memory, l.Sizes["v"])}, l.r.IntN(3), pl.Left().Moves
		if when == 0 {
			upkeep()
		}
		_, err = pl.Restore(t.Context(), img, twin.Run{Done: func(twin.Base) error {
			if when--; when == 0 {
				upkeep()
			}
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		if pl.Left().Moves != before {
			again++
		}
		if !bytes.Equal(img.memory, l.History[lsn]["v"]) {
			t.Fatalf("restore %d, at LSN %d: the image differs", i, lsn)
		}
		if err := pl.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if again == 0 {
		t.Error("no restore had to look again")
	}
	t.Logf("%d restores had to look again", again)
}
