package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// TestSpill fills the WAL of an agent whose journal never answers: with the bitmap
// policy writers go on, and the bitmap knows every block that a frame which is gone
// has changed, after a restart too.
func TestSpill(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	o := regressOpts(t)
	o.WALBudgetBytes, o.WALSegmentBytes, o.WALReserveBytes, o.NoCompression = 16<<20, 1<<20, 1<<20, true
	o.CheckpointInterval, o.SpillAfter = 10*time.Millisecond, time.Nanosecond
	o.Dial = func(context.Context) (net.Conn, error) { return nil, errors.New("no journal") }
	a, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	s := StreamConf{ID: uuid.New(), Number: 1, Group: "g", Policy: Policy{Overflow: OverflowBitmap}}
	if err := a.AddStream(s); err != nil {
		t.Fatal(err)
	}
	const size = 8 << 20
	vc := VolumeConf{Name: "v", Number: 2, Group: "g", Stream: s.ID, SizeBytes: size,
		Backing: filepath.Join(t.TempDir(), "v")}
	if _, err := a.AddVolume(ctx, vc); err != nil {
		t.Fatal(err)
	}
	dev, err := a.Device("v")
	if err != nil {
		t.Fatal(err)
	}
	var writes []int64 // blocks of 4 KiB, by LSN
	r := rand.New(rand.NewPCG(5, 5))
	data := make([]byte, 4096)
	overflowed := func() *Overflow { return a.Status().Streams[0].Overflow }
	for len(writes) < 12000 { // 48 MiB through 16
		for range 64 {
			block := r.Int64N(size/4096) &^ 1 // odd blocks stay clean
			data[0] = byte(block)
			writeDevice(t, dev, data, block*4096)
			writes = append(writes, block)
		}
		if err := dev.Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if o := overflowed(); o == nil || o.After != 0 || o.Bytes == 0 || o.Copying {
		t.Fatalf("%+v", o)
	}
	if err := a.NoPoint(s.ID); !fail.Is(err, fail.Refused) {
		t.Errorf("NoPoint: %v", err)
	}
	want := func() (out []Extent) {
		dirty := map[int64]bool{}
		for _, b := range writes {
			dirty[b] = true
		}
		for b := range int64(size / 4096) {
			if dirty[b] {
				out = append(out, Extent{b * 4096, 4096})
			}
		}
		return out
	}()
	after := uint64(0)
	for round := range 2 {
		got, err := a.Changed(ctx, "v", &after)
		if err != nil || got.GranuleBytes != 4096 {
			t.Fatal(got.GranuleBytes, err)
		}
		if diff := cmp.Diff(want, got.Extents); diff != "" {
			t.Fatalf("round %d: %s", round, diff)
		}
		if round == 1 {
			break
		}
		leave(a)
		if a, err = Open(o); err != nil {
			t.Fatal(err)
		}
	}
	path := a.overflowPath(s.ID)
	leave(a)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(o); !fail.Is(err, fail.Damaged) {
		t.Errorf("a damaged bitmap: %v", err)
	}
}

// TestKnownPoints: a gap is closed only where the journal stands at a point that this
// agent's dropped history has.
func TestKnownPoints(t *testing.T) {
	p := func(lsn uint64, b byte) change.Point { return change.Point{LSN: lsn, Hash: change.Hash{b}} }
	s := &overflowState{}
	s.take(&droppedFrames{upto: p(90, 9), known: []change.Point{p(10, 1), p(20, 2), p(35, 3)}}, framesDropped)
	for at, want := range map[change.Point]bool{p(10, 1): true, p(20, 2): true, p(35, 3): true,
		p(20, 1): false, p(21, 2): false, p(0, 0): false, p(90, 9): false, p(95, 2): false} {
		to, gap := s.gap(&change.Attached{Committed: at})
		if gap != want || (gap && to != p(90, 9)) {
			t.Errorf("%v: %v to %v", at, gap, to)
		}
	}
	if _, gap := s.gap(&change.Attached{Committed: p(20, 2), Error: &change.Fault{}}); gap {
		t.Error("a refused attach")
	}
	if _, gap := (&overflowState{}).gap(&change.Attached{}); gap {
		t.Error("without an overflow")
	}
}

// TestGuard: a copy is refused exactly where somebody wrote to its range after it
// began, or where another copy has begun since.
func TestGuard(t *testing.T) {
	v, w := &Volume{}, &Volume{}
	one := func(vol *Volume, off int64, n uint32, copied *copyGuard) []rec {
		r := rec{vol: vol, copy: copied}
		r.Off, r.Len = off, n
		return []rec{r}
	}
	for name, tt := range map[string]struct {
		write []rec
		hit   bool
	}{
		"inside": {one(v, 150, 1, nil), true}, "around": {one(v, 0, 500, nil), true},
		"last byte": {one(v, 199, 1, nil), true}, "before": {one(v, 0, 100, nil), false},
		"behind": {one(v, 200, 10, nil), false}, "another volume": {one(w, 150, 1, nil), false},
		"one of two": {append(one(v, 0, 1, nil), one(v, 120, 1, nil)...), true},
	} {
		s := &stream{}
		g := s.guard(v, 100, 100)
		if err := s.overflow.watch(tt.write); err != nil {
			t.Errorf("%s: a client's write: %v", name, err)
		}
		if err := s.overflow.watch(one(v, 100, 100, g)); (err == errWritten) != tt.hit {
			t.Errorf("%s: %v", name, err)
		}
		other := s.guard(v, 300, 100)
		s.unguard(g)
		if err := s.overflow.watch(one(v, 100, 100, g)); err != errWritten {
			t.Errorf("%s: a copy that another one has replaced: %v", name, err)
		}
		if err := s.overflow.watch(one(v, 300, 100, other)); err != nil {
			t.Errorf("%s: the other one: %v", name, err)
		}
	}
}

// TestSpilledChanges: what leaves the WAL before the targets have it stays in the change map,
// over a restart, until they do.
func TestSpilledChanges(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	o := regressOpts(t)
	o.WALBudgetBytes, o.WALSegmentBytes, o.WALReserveBytes, o.NoCompression = 16<<20, 1<<20, 1<<20, true
	o.CheckpointInterval = 10 * time.Millisecond
	o.Dial = func(context.Context) (net.Conn, error) { return nil, errors.New("no journal") }
	a, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	conf := StreamConf{ID: uuid.New(), Number: 1, Group: "g"}
	if err := a.AddStream(conf); err != nil {
		t.Fatal(err)
	}
	vc := VolumeConf{Name: "v", Number: 2, Group: "g", Stream: conf.ID, SizeBytes: 8 << 20,
		Backing: filepath.Join(t.TempDir(), "v")}
	if _, err := a.AddVolume(ctx, vc); err != nil {
		t.Fatal(err)
	}
	dev, err := a.Device("v")
	if err != nil {
		t.Fatal(err)
	}
	say := func(released, durable uint64) { // the journal's word, without one
		s, _ := a.stream("", conf.ID)
		s.acked(&change.Ack{Stream: conf.ID, Released: released, Durable: durable})
	}
	dirty := map[int64]bool{}
	write := func(from, n int64) {
		for i := range n {
			block := (from + i) % 2048
			writeDevice(t, dev, make4k(byte(1+i)), block*4096)
			dirty[block] = true
		}
		if err := dev.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		say(a.LastLSN(conf.ID), 0)
	}
	check := func(after *uint64) {
		t.Helper()
		got, err := a.Changed(ctx, "v", after)
		if err != nil || got.Bytes != int64(len(dirty))*4096 {
			t.Fatalf("%d bytes, want %d blocks; %v", got.Bytes, len(dirty), err)
		}
	}
	for i := range int64(20) {
		write(100*i, 300) // 23 MiB in all
		check(nil)
	}
	if a.wal.First() == 1 {
		t.Fatal("nothing has left the WAL")
	}
	leave(a)
	if a, err = Open(o); err != nil {
		t.Fatal(err)
	}
	defer func() { leave(a) }()
	zero := uint64(0)
	check(&zero)
	last := a.LastLSN(conf.ID)
	say(last, last)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		wake(a.wakeCheckpoint)
		if _, err := os.Stat(a.spilledPath(conf.ID)); os.IsNotExist(err) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the spilled changes stay although the targets have all")
		}
	}
	if _, err := a.Changed(ctx, "v", &zero); !fail.Is(err, fail.Refused) {
		t.Errorf("what nobody has any more: %v", err)
	}
}

func make4k(b byte) []byte {
	p := make([]byte, 4096)
	p[0] = b
	return p
}
