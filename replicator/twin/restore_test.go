package twin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/seed"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/rangeset"
	"github.com/pollux-dr/pollux/replicator/state"
)

const modelVolumeBytes = 5*rangeset.Granule + 1000

// model replays a stream's records in the plainest way there is.
type model struct {
	stream change.StreamID
	images map[string][]byte
	at     []map[string][]byte // by LSN
	number map[uint32]string
	first  uint32
}

func (m *model) apply(c change.Change) {
	if c.Kind != change.Mark {
		img := m.images[m.number[c.Volume]]
		clear(img[c.Off : c.Off+int64(c.Len)])
		copy(img[c.Off:], bytes.Join(c.Data, nil))
	}
	now := map[string][]byte{}
	for name, img := range m.images {
		now[name] = bytes.Clone(img)
	}
	m.at = append(m.at, now)
}

func newModel(h *history, id change.StreamID, first uint32, names ...string) *model {
	m := &model{stream: id, images: map[string][]byte{}, number: map[uint32]string{}, first: first}
	for i, name := range names {
		m.images[name] = make([]byte, modelVolumeBytes)
		m.number[first+uint32(i)] = name
	}
	m.apply(change.Change{Kind: change.Mark}) // LSN 0
	return m
}

func randomChange(r *rand.Rand, m *model) change.Change {
	var volumes []uint32
	for v := range m.number {
		volumes = append(volumes, v)
	}
	v := volumes[0]
	for _, o := range volumes { // maps have no order, seeds need one
		v = min(v, o)
	}
	v += uint32(r.IntN(len(volumes)))
	off := r.Int64N(modelVolumeBytes)
	n := 1 + r.Int64N(min(modelVolumeBytes-off, 3*rangeset.Granule))
	if r.IntN(2) == 0 {
		off = off / 512 * 512
		n = min((n+511)/512*512, modelVolumeBytes-off)
	}
	c := change.Change{Kind: change.Write, Volume: v, Off: off, Len: uint32(n)}
	switch r.IntN(8) {
	case 0:
		c.Kind = change.Zero
	case 1:
		c.Kind = change.Trim
	case 2:
		return change.Change{Kind: change.Mark, Data: [][]byte{[]byte("mark")}}
	default:
		b := bytes.Repeat([]byte{byte(1 + r.IntN(255))}, int(n))
		for range r.IntN(20) {
			b[r.IntN(len(b))] = byte(r.Uint32())
		}
		c.Data = [][]byte{b[:n/2], b[n/2:]}
	}
	return c
}

// randomLog writes frames of two streams, with three volumes, through segments
// of any size and fences in between.
func randomLog(t *testing.T, r *rand.Rand, folding bool) (*history, []*model) {
	h := begun(t)
	h.control(streamA, streamB) // volumes vola (2) and volb (4)
	h.volume("extra", streamA, "a")
	models := []*model{newModel(h, streamA, 2, "vola"), newModel(h, streamB, 4, "volb")}
	models[0].number[5], models[0].images["extra"] = "extra", make([]byte, modelVolumeBytes)
	models[0].number = map[uint32]string{2: "vola", 5: "extra"}
	for i := range 30 {
		m := models[r.IntN(2)]
		var changes []change.Change
		for range 1 + r.IntN(5) {
			c := randomChange(r, m)
			if m.stream == streamA && c.Volume == 3 {
				c.Volume = 5
			}
			changes = append(changes, c)
			m.apply(c)
		}
		h.frame(m.stream, changes...)
		if r.IntN(3) == 0 {
			h.folding = folding && r.IntN(3) > 0
			h.segment()
			if r.IntN(4) == 0 {
				h.token = token(1, uint64(i+2), byte(i))
				h.fence(h.next)
			}
		}
	}
	if len(h.entries) > 0 {
		h.segment()
	}
	return h, models
}

// TestRestoreModel: newest first with a coverage map gives what a plain replay
// gives, for every volume at every LSN.
func TestRestoreModel(t *testing.T) {
	base := seed.New(t)
	for i := range uint64(6) {
		seed := base + i
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			h, models := randomLog(t, rand.New(rand.NewPCG(seed, 0)), i%2 == 1)
			l := h.mustOpen()
			folds, points := 0, 0
			for _, m := range models {
				for lsn := range m.at {
					if folded(t, l, l.State.Volumes[m.number[m.first]], uint64(lsn)) {
						folds++
						continue
					}
					points++
					for name := range m.images {
						v := *l.State.Volumes[name]
						want := m.at[lsn][name]
						if want == nil {
							want = make([]byte, modelVolumeBytes)
						}
						got := image(t, l, Point{Volume: &v, LSN: uint64(lsn)})[:modelVolumeBytes]
						if !bytes.Equal(got, want) {
							t.Fatalf("seed %d: %s at LSN %d of %d differs from byte %d on", seed, name, lsn,
								len(m.at)-1, firstDifference(got, want))
						}
					}
				}
			}
			_, totals := examine(t, h)
			if totals.Err() != nil {
				t.Error(totals.Err())
			}
			if n := totals.Streams[0].Folds + totals.Streams[1].Folds; (i%2 == 1) != (folds > 0 && n > 0) ||
				points < n {
				t.Errorf("%d points and %d LSNs in %d folds", points, folds, n)
			}
		})
	}
}

// folded reports whether an LSN lies in a fold, and checks what Resolve says to it:
// the points next to it, and for a time in between the one before.
func folded(t *testing.T, l *Log, v *state.Volume, lsn uint64) bool {
	t.Helper()
	if lsn == 0 {
		return false
	}
	_, err := l.Resolve(context.Background(), v, fmt.Sprint(lsn), epochStart)
	before, after, exact, _ := l.exact(context.Background(), v.Stream, lsn)
	if exact {
		if err != nil {
			t.Fatalf("LSN %d: %v", lsn, err)
		}
		return false
	}
	if !fail.Is(err, fail.NotFound) || !strings.Contains(err.Error(), "folded") ||
		!strings.Contains(fail.HintOf(err), fmt.Sprint(after)) {
		t.Fatalf("LSN %d in a fold: %v, %s", lsn, err, fail.HintOf(err))
	}
	for _, near := range []uint64{before, after} {
		if _, err := l.Resolve(context.Background(), v, fmt.Sprint(near), epochStart); err != nil &&
			near >= v.FirstLSN {
			t.Fatalf("LSN %d, said to be next to %d: %v", near, lsn, err)
		}
	}
	at := l.timeOf(context.Background(), v, after).Add(-time.Nanosecond).Format(time.RFC3339Nano)
	if p, err := l.Resolve(context.Background(), v, at, epochStart); err == nil &&
		(p.LSN != before || !strings.Contains(p.Note, "folded")) {
		t.Fatalf("%s resolves to LSN %d (%q), the fold begins after %d", at, p.LSN, p.Note, before)
	}
	return true
}

func firstDifference(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// TestRestoreWritesOnce: each live byte is written once, zeros never.
func TestRestoreWritesOnce(t *testing.T) {
	h := begun(t)
	h.control(streamA)
	for i := range 20 {
		h.frame(streamA, fill(2, 0, 3*rangeset.Granule, byte(i)), fill(2, 100, 10, byte(i)))
		h.segment()
	}
	h.frame(streamA, change.Change{Kind: change.Zero, Volume: 2, Off: rangeset.Granule, Len: rangeset.Granule})
	h.segment()
	l := h.mustOpen()
	v, _ := l.Volume("vola")
	p, err := l.Resolve(context.Background(), v, "", epochStart)
	if err != nil {
		t.Fatal(err)
	}
	pl, err := l.Plan(t.Context(), p, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	defer pl.Close()
	var last atomic.Int64
	res, err := pl.Restore(t.Context(), make(memory, v.SizeBytes), Run{Progress: func(done, total int64) {
		if total != pl.Bytes {
			t.Errorf("total %d of %d", total, pl.Bytes)
		}
		last.Store(done)
	}})
	if err != nil || res.WrittenBytes != 2*rangeset.Granule || res.ReadBytes != pl.Bytes || last.Load() != pl.Bytes {
		t.Errorf("%+v of %d bytes, %v", res, pl.Bytes, err)
	}
	if pl.Objects != 1 || pl.LiveBytes != 2*rangeset.Granule || pl.NeedBytes != pl.LiveBytes || pl.ZeroBytes != 0 {
		t.Errorf("%+v: only the newest frame has live bytes", pl)
	}
}

// TestRestoreOver: over an image of any other point, and one that was interrupted
// anywhere, a restore makes the image that a new one would be.
func TestRestoreOver(t *testing.T) {
	seed := seed.New(t)
	r := rand.New(rand.NewPCG(seed, 0))
	h, models := randomLog(t, r, seed%2 == 1)
	l := h.mustOpen()
	for range 150 {
		m := models[r.IntN(2)]
		v := *l.State.Volumes[m.number[m.first]]
		lsns := []uint64{}
		for range 3 {
			lsn := uint64(r.IntN(len(m.at)))
			if _, _, exact, _ := l.exact(context.Background(), v.Stream, lsn); exact {
				lsns = append(lsns, lsn)
			}
		}
		img, base, interrupted := make(memory, v.SizeBytes), (*Base)(nil), 0
		for _, lsn := range lsns {
			pl, err := l.Plan(t.Context(), Point{Volume: &v, LSN: lsn}, base, "")
			if err != nil {
				t.Fatal(err)
			}
			stop, told, left := r.IntN(4), 0, pl.Left()
			if lsn == lsns[len(lsns)-1] {
				stop = 1 << 30
			}
			_, err = pl.Restore(t.Context(), img, Run{Done: func(b Base) error {
				if told++; told > stop {
					return errors.New("interrupted")
				}
				left = b
				return nil
			}})
			if stop < 1<<30 && err != nil {
				interrupted++
			} else if err != nil || left.Done != Whole {
				t.Fatal(err, left)
			}
			base = &left
			if err := pl.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if len(lsns) == 0 {
			continue
		}
		want := m.at[lsns[len(lsns)-1]][v.Name]
		if !bytes.Equal(img[:modelVolumeBytes], want) {
			t.Fatalf("seed %d: LSNs %v, %d interrupted: differs from byte %d on", seed, lsns, interrupted,
				firstDifference(img, want))
		}
	}
}

// TestRestoreOutside: a record beyond the volume's end is damage, and goes nowhere.
func TestRestoreOutside(t *testing.T) {
	h := begun(t)
	h.control(streamA)
	h.frame(streamA, fill(2, 1<<20-100, 200, 1))
	h.segment()
	l := h.mustOpen()
	v, _ := l.Volume("vola")
	p, err := l.Resolve(context.Background(), v, "", epochStart)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Restore(t.Context(), p, make(memory, v.SizeBytes)); !fail.Is(err, fail.Damaged) ||
		!strings.Contains(err.Error(), "outside") {
		t.Errorf("%v", err)
	}
}

type failing struct{}

func (failing) WriteAt([]byte, int64) (int, error) { return 0, errors.New("disk full") }

// TestRestoreFails: a target that fails, and an interruption, end the call; no
// goroutine stays behind (TestMain looks).
func TestRestoreFails(t *testing.T) {
	h, _ := randomLog(t, rand.New(rand.NewPCG(1, 1)), true)
	l := h.mustOpen()
	v, _ := l.Volume("vola")
	p, err := l.Resolve(context.Background(), v, "", epochStart)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Restore(t.Context(), p, failing{}); !fail.Is(err, fail.Full) ||
		!strings.Contains(err.Error(), "disk full") {
		t.Errorf("failing target: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Restore(ctx, p, make(memory, v.SizeBytes)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	for _, x := range l.Objects {
		h.remove(x.Position)
	}
	if _, err := l.Restore(t.Context(), p, make(memory, v.SizeBytes)); !fail.Is(err, fail.Damaged) ||
		!strings.Contains(err.Error(), objlog.ObjectName(0)[:20]) {
		t.Errorf("object gone meanwhile: %v", err)
	}
}
