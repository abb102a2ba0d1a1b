package twin

import (
	"encoding/json"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"github.com/pollux-dr/pollux/internal/seed"
	"github.com/pollux-dr/pollux/replicator/logtest"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// TestExtend: a log that is extended is the log as Open finds it, or says that it cannot tell.
func TestExtend(t *testing.T) {
	r := rand.New(rand.NewPCG(seed.New(t), 1))
	extended := 0
	for range 30 {
		l := logtest.New(t, newStore(t))
		l.Volume("a", 1<<20)
		l.Random(r, 3)
		in := open(t, l.Store)
		var places []*logtest.Place
		for range 12 {
			for range r.IntN(4) {
				switch r.IntN(6) {
				case 0:
					places = append(places, l.Here())
				case 1:
					if n := len(places); n > 0 {
						l.GoBack(places[r.IntN(n)])
						places = nil
					}
				case 2:
					l.Volume(string(rune('b'+len(l.Volumes))), 1<<20)
				default:
					l.Random(r, 1+r.IntN(5))
				}
			}
			// It is not known how far it goes.
			to := in.End + uint64(r.IntN(int(l.Position-in.End)+3))
			if to = min(to, l.Position+2); to < in.End {
				to = in.End
			}
			ok, err := in.Extend(t.Context(), to)
			if err != nil {
				t.Fatal(err)
			}
			want := open(t, l.Store)
			if !ok {
				in = want
				continue
			}
			extended++
			same(t, in, want)
		}
	}
	if extended < 100 {
		t.Errorf("extended only %d times", extended)
	}
}

// same holds two readings of a log against each other.
func same(t *testing.T, got, want *Log) {
	t.Helper()
	now := time.Unix(0, 0)
	for _, x := range []struct {
		what      string
		got, want any
	}{{"state", got.State, want.State}, {"end", got.ReadPoint(now), want.ReadPoint(now)},
		{"epoch", got.Epoch, want.Epoch}, {"objects", got.Objects, want.Objects}, {"frames", got.Frames, want.Frames},
		{"void", got.Void, want.Void}, {"bytes", got.Bytes, want.Bytes}} {
		a, _ := json.Marshal(x.got)
		b, _ := json.Marshal(x.want)
		if string(a) != string(b) {
			t.Fatalf("%s: %s", x.what, cmp.Diff(string(b), string(a)))
		}
	}
}

// TestExtendNot: what Extend does not understand it leaves to Open.
func TestExtendNot(t *testing.T) {
	l := logtest.New(t, newStore(t))
	l.Volume("a", 1<<20)
	r := rand.New(rand.NewPCG(1, 1))
	l.Random(r, 2)
	in := open(t, l.Store)
	if ok, err := in.Extend(t.Context(), in.End-1); ok || err != nil {
		t.Errorf("back: %v, %v", ok, err)
	}
	first := l.Position
	l.Random(r, 2)
	l.Random(r, 2)
	if err := l.Store.Delete(t.Context(), objlog.ObjectName(first)); err != nil {
		t.Fatal(err)
	}
	if ok, err := in.Extend(t.Context(), l.Position); ok || err != nil {
		t.Errorf("with a gap: %v, %v", ok, err)
	}
	damaged := open(t, l.Store)
	if ok, err := damaged.Extend(t.Context(), l.Position); ok || err != nil {
		t.Errorf("damaged before: %v, %v", ok, err)
	}
}

func newStore(t *testing.T) objstore.Store {
	t.Helper()
	s, err := objstore.Open(t.Context(), "file:///log", objstore.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func open(t *testing.T, s objstore.Store) *Log {
	t.Helper()
	l, err := Open(t.Context(), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
