package agent

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// idleRig is an agent without a journal, and what its volume should hold.
type idleRig struct {
	t     *testing.T
	o     Options
	a     *Agent
	dev   block.Device
	conf  StreamConf
	vol   VolumeConf
	image []byte
}

func newIdleRig(t *testing.T, o Options, overflow string) *idleRig {
	r := &idleRig{t: t, o: o, image: make([]byte, fakeVolumeBytes)}
	var err error
	if r.a, err = Open(o); err != nil {
		t.Fatal(err)
	}
	r.conf = StreamConf{ID: uuid.New(), Number: 1, Group: "g", Policy: Policy{Overflow: overflow}}
	if err := r.a.AddStream(r.conf); err != nil {
		t.Fatal(err)
	}
	r.vol = VolumeConf{Name: "v", Number: 2, Group: "g", Stream: r.conf.ID, SizeBytes: fakeVolumeBytes,
		Backing: filepath.Join(t.TempDir(), "v")}
	if _, err := r.a.AddVolume(t.Context(), r.vol); err != nil {
		t.Fatal(err)
	}
	if r.dev, err = r.a.Device("v"); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *idleRig) write(block int64, b byte) {
	data := bytes.Repeat([]byte{b}, 4096)
	writeDevice(r.t, r.dev, data, block*4096)
	copy(r.image[block*4096:], data)
}

func (r *idleRig) flush() change.Point {
	r.t.Helper()
	if err := r.dev.Flush(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	s, err := r.a.stream("", r.conf.ID)
	if err != nil {
		r.t.Fatal(err)
	}
	s.enc.mu.Lock()
	defer s.enc.mu.Unlock()
	return s.enc.tail
}

func (r *idleRig) read() *Idle {
	r.t.Helper()
	d, err := ReadIdle(vfs.Default, r.o.StateDir)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = d.Close() })
	return d
}

func (r *idleRig) beyond(at change.Point) *Beyond {
	r.t.Helper()
	out, err := r.read().Beyond(r.conf.ID, at)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func noJournal(o Options) Options {
	o.Dial = func(context.Context) (net.Conn, error) { return nil, errors.New("no journal") }
	return o
}

// TestSettle: of a killed agent, what only the arena has and what only the WAL has gets into the
// backing, whatever its group promises; and what lies behind a point is told exactly.
func TestSettle(t *testing.T) {
	r := newIdleRig(t, noJournal(regressOpts(t)), "")
	r.write(1, 'A')
	at := r.flush()
	r.write(1, 'B')
	r.write(2, 'B')
	r.write(9, 'B')
	r.flush()
	r.write(3, 'C') // in the arena alone
	leave(r.a)
	before := r.tree()
	if got := r.beyond(at); got.End.LSN < at.LSN+3 {
		t.Errorf("the WAL ends at %v", got.End)
	}
	if diff := cmp.Diff(before, r.tree()); diff != "" {
		t.Errorf("looking has changed something: %s", diff)
	}
	for range 2 {
		if err := Settle(t.Context(), r.o); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(r.vol.Backing)
	if err != nil || !bytes.Equal(got, r.image) {
		t.Fatalf("the backing does not have all: %v", err)
	}
	b := r.beyond(at)
	want := []Extent{{4096, 3 * 4096}, {9 * 4096, 4096}}
	if diff := cmp.Diff(want, b.Extents[r.vol.Number]); diff != "" || b.Rounded || b.End.LSN != at.LSN+4 {
		t.Errorf("%v %s", b.End, diff)
	}
	if b := r.beyond(b.End); len(b.Extents) != 0 {
		t.Errorf("behind the end: %+v", b)
	}
}

// tree is what lies in the state directory.
func (r *idleRig) tree() map[string]string {
	out := map[string]string{}
	err := filepath.Walk(r.o.StateDir, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		out[path] = string(b)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// TestBeyondRefuses: another history is named, and what is not known is not guessed.
func TestBeyondRefuses(t *testing.T) {
	r := newIdleRig(t, noJournal(regressOpts(t)), "")
	r.write(1, 'A')
	at := r.flush()
	r.write(2, 'B')
	end := r.flush()
	leave(r.a)
	d := r.read()
	for _, p := range []change.Point{{LSN: at.LSN, Hash: end.Hash}, {LSN: end.LSN, Hash: at.Hash}} {
		if _, err := d.Beyond(r.conf.ID, p); !fail.Is(err, fail.Fenced) {
			t.Errorf("%v: %v", p, err)
		}
	}
	if _, err := d.Beyond(r.conf.ID, change.Point{LSN: end.LSN + 7}); !fail.Is(err, fail.NotFound) {
		t.Errorf("behind the end: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(r.o.StateDir, "wal")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.read().Beyond(r.conf.ID, at); !fail.Is(err, fail.NotFound) {
		t.Errorf("the WAL is gone: %v", err)
	}
}

// TestBeyondOverflow: what has left the WAL is in the bitmap.
func TestBeyondOverflow(t *testing.T) {
	o := noJournal(overflowing(t, newFakeJournal()))
	o.SpillAfter = 1
	r := newIdleRig(t, o, OverflowBitmap)
	n := rand.New(rand.NewPCG(7, 7))
	dirty := map[int64]bool{}
	for range 120 {
		for range 64 {
			block := n.Int64N(fakeVolumeBytes/4096) &^ 1 // odd blocks stay clean
			r.write(block, byte(block)|1)
			dirty[block] = true
		}
		r.flush()
	}
	if streamStatus(r.a, r.conf.ID).Overflow == nil {
		t.Fatal("it did not overflow")
	}
	leave(r.a)
	if err := Settle(t.Context(), r.o); err != nil {
		t.Fatal(err)
	}
	b := r.beyond(change.Point{})
	bytes := int64(0)
	for _, e := range b.Extents[r.vol.Number] {
		bytes += e.Len
	}
	if !b.Rounded || bytes != int64(len(dirty))*4096 {
		t.Errorf("%d bytes, want %d blocks", bytes, len(dirty))
	}
}
