package agent

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/agent/backing"
)

type hookBacking struct {
	backing.Backing
	read  func(off int64) // after a read
	write func(off int64) // before a write
}

func (h *hookBacking) ReadAt(p []byte, off int64) error {
	err := h.Backing.ReadAt(p, off)
	if h.read != nil {
		h.read(off)
	}
	return err
}
func (h *hookBacking) WriteAt(p []byte, off int64) error {
	if h.write != nil {
		h.write(off)
	}
	return h.Backing.WriteAt(p, off)
}

func regressOpts(t *testing.T) Options {
	dir := t.TempDir()
	shm, err := os.MkdirTemp("/dev/shm", "pollux-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(shm) })
	return Options{Name: "t", StateDir: filepath.Join(dir, "agent"), ArenaPath: filepath.Join(shm, "arena"),
		MemoryBytes: 16 << 20,
		Dial:        func(context.Context) (net.Conn, error) { return nil, errors.New("no journal in this test") }}
}

// Two initial syncs of one volume must not overlap: the one that ends first would
// make the volume ready, and the other then overwrite a client's flushed write.
func TestTwoInitialSyncs(t *testing.T) {
	o := regressOpts(t)
	img := filepath.Join(t.TempDir(), "v.img")
	const size = 1 << 20
	if err := os.WriteFile(img, bytes.Repeat([]byte{'o'}, size), 0o600); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var h *hookBacking
	o.OpenBacking = func(path string, size int64) (backing.Backing, error) {
		b, err := backing.Open(path, size)
		mu.Lock()
		defer mu.Unlock()
		if h == nil {
			h = &hookBacking{}
		}
		h.Backing = b
		return h, err
	}
	sc := StreamConf{ID: uuid.New(), Number: 1, Group: "g"}
	vc := VolumeConf{Name: "v", Number: 2, Group: "g", Stream: sc.ID, SizeBytes: size, Backing: img}
	// First life: stopped during the initial sync.
	a, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.AddStream(sc); err != nil {
		t.Fatal(err)
	}
	h = &hookBacking{}
	reached, stop := make(chan struct{}), make(chan struct{})
	var once sync.Once
	h.read = func(off int64) { once.Do(func() { close(reached); <-stop }) }
	done := make(chan error, 1)
	go func() { _, err := a.AddVolume(context.Background(), vc); done <- err }()
	<-reached
	// stop the agent's stream as a kill would, then let go
	a.snapshotStreams()[0].close(errors.New("killed"))
	close(stop)
	if err := <-done; err == nil {
		t.Fatal("sync finished")
	}
	_ = a.Close(context.Background())

	// Second life.
	h = &hookBacking{}
	held, release := make(chan struct{}), make(chan struct{})
	var first sync.Once
	h.read = func(off int64) {
		if off == 512<<10 {
			hold := false
			first.Do(func() { hold = true })
			if hold {
				close(held)
				<-release // this goroutine has read, and is descheduled
			}
		}
	}
	a, err = Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close(context.Background())
	syncs := make(chan error, 2)
	for range 2 { // a verb, and reconcile
		go func() { _, err := a.AddVolume(context.Background(), vc); syncs <- err }()
	}
	<-held // one of them is in the middle
	if _, err := a.Device("v"); err == nil {
		t.Fatal("the volume is served while its initial sync is under way")
	}
	close(release)
	for range 2 {
		if err := <-syncs; err != nil {
			t.Fatal(err)
		}
	}
	dev, err := a.Device("v")
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte{'N'}, 4096)
	writeDevice(t, dev, want, 512<<10)
	if err := dev.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4096)
	if err := dev.ReadAt(context.Background(), got, 512<<10); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("acknowledged and flushed write lost: reads %q", got[:4])
	}
}

// The WAL ends before the checkpoint; the journal (paused group) is behind both.
func TestWALBehindCheckpoint(t *testing.T) {
	o := regressOpts(t)
	img := filepath.Join(t.TempDir(), "v.img")
	sc := StreamConf{ID: uuid.New(), Number: 1, Group: "g", Paused: true}
	vc := VolumeConf{Name: "v", Number: 2, Group: "g", Stream: sc.ID, SizeBytes: 1 << 20, Backing: img}
	a, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.AddStream(sc); err != nil {
		t.Fatal(err)
	}
	if _, err := a.AddVolume(context.Background(), vc); err != nil {
		t.Fatal(err)
	}
	dev, _ := a.Device("v")
	ctx := context.Background()
	for i := range 3 {
		writeDevice(t, dev, bytes.Repeat([]byte{'a'}, 4096), int64(i)*4096)
		if err := dev.Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Close(ctx); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(t.TempDir(), "walcopy")
	if err := os.CopyFS(old, os.DirFS(filepath.Join(o.StateDir, "wal"))); err != nil {
		t.Fatal(err)
	}
	a, err = Open(o)
	if err != nil {
		t.Fatal(err)
	}
	dev, _ = a.Device("v")
	for i := range 3 {
		writeDevice(t, dev, bytes.Repeat([]byte{'b'}, 4096), int64(i)*4096)
		if err := dev.Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Close(ctx); err != nil {
		t.Fatal(err)
	}
	// the last frames of the WAL are gone
	_ = os.RemoveAll(filepath.Join(o.StateDir, "wal"))
	if err := os.CopyFS(filepath.Join(o.StateDir, "wal"), os.DirFS(old)); err != nil {
		t.Fatal(err)
	}
	a, err = Open(o)
	if err != nil {
		t.Logf("refused, as it should: %v", err)
		return
	}
	dev, _ = a.Device("v")
	writeDevice(t, dev, bytes.Repeat([]byte{'c'}, 4096), 0)
	if err := dev.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(ctx); err != nil {
		t.Fatal(err)
	}
	_, err = Open(o)
	t.Fatalf("a WAL that lost frames below the checkpoint was accepted, and extended with a gap; next start: %v", err)
}

// A write of a removed volume is in the arena, with another volume's behind it.
func TestRemovedVolumeInArena(t *testing.T) {
	o := regressOpts(t)
	o.Linger = time.Hour
	dir := t.TempDir()
	sc := StreamConf{ID: uuid.New(), Number: 1, Group: "g"}
	a, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.AddStream(sc); err != nil {
		t.Fatal(err)
	}
	for i, n := range []string{"v", "w"} {
		vc := VolumeConf{Name: n, Number: uint32(2 + i), Group: "g", Stream: sc.ID, SizeBytes: 1 << 20,
			Backing: filepath.Join(dir, n)}
		if _, err := a.AddVolume(context.Background(), vc); err != nil {
			t.Fatal(err)
		}
	}
	v, _ := a.Device("v")
	w, _ := a.Device("w")
	ctx := context.Background()
	// v's client has sent a header; its memory is taken, its payload under way
	b, err := v.Prepare(ctx, 4096)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.RemoveVolume(ctx, "v"); err != nil {
		t.Fatal(err)
	}
	b.Pieces()[0][0] = 1
	cctx, cancel := context.WithCancel(ctx)
	cancel() // Detach cancelled it
	if err := v.Write(cctx, b, 0, false); err == nil {
		t.Error("a removed volume took a write")
	}
	writeDevice(t, w, []byte("acknowledged"), 0)
	// kill -9: leave everything, take the files over
	leave(a)
	a2, err := Open(o)
	if err != nil {
		t.Fatalf("restart: %v", err)
	}
	_ = a2.Close(ctx)
}

// Pausing a group while the status is read and the shipper reconnects.
func TestPauseRace(t *testing.T) {
	a, _ := openForTest(t, 16<<20, 1<<20)
	sc := a.snapshotStreams()[0].conf
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 200 {
			_ = a.Status()
		}
	}()
	for i := range 20 {
		sc.Paused = i%2 == 0
		if err := a.AddStream(sc); err != nil {
			t.Error(err)
		}
	}
	<-done
}

// A verb's initial sync runs while the daemon stops.
func TestCloseDuringInitialSync(t *testing.T) {
	o := regressOpts(t)
	img := filepath.Join(t.TempDir(), "v.img")
	if err := os.WriteFile(img, bytes.Repeat([]byte{'o'}, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	reading, cont := make(chan struct{}), make(chan struct{})
	var once sync.Once
	o.OpenBacking = func(path string, size int64) (backing.Backing, error) {
		b, err := backing.Open(path, size)
		return &hookBacking{Backing: b, read: func(int64) { once.Do(func() { close(reading); <-cont }) }}, err
	}
	sc := StreamConf{ID: uuid.New(), Number: 1, Group: "g"}
	a, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.AddStream(sc); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := a.AddVolume(ctx, VolumeConf{Name: "v", Number: 2, Group: "g", Stream: sc.ID,
			SizeBytes: 1 << 20, Backing: img})
		done <- err
	}()
	<-reading // a slow disk
	cancel()  // http.Server.Close
	closed := make(chan error, 1)
	go func() { closed <- a.Close(context.Background()) }()
	close(cont) // Close must wait for the sync before it unmaps the arena
	if err := <-done; err == nil {
		t.Log("the sync was faster than the stop")
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// kill -9, then a start with another `memory:`.
func TestMemoryChanged(t *testing.T) {
	o := regressOpts(t)
	o.Linger = time.Hour
	sc := StreamConf{ID: uuid.New(), Number: 1, Group: "g"}
	a, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	_ = a.AddStream(sc)
	vc := VolumeConf{Name: "v", Number: 2, Group: "g", Stream: sc.ID, SizeBytes: 1 << 20,
		Backing: filepath.Join(t.TempDir(), "v")}
	if _, err := a.AddVolume(context.Background(), vc); err != nil {
		t.Fatal(err)
	}
	v, _ := a.Device("v")
	writeDevice(t, v, []byte("acknowledged"), 0)
	leave(a)
	o.MemoryBytes = 32 << 20
	a, err = Open(o)
	if err != nil {
		t.Logf("refused: %v", err)
		return
	}
	defer a.Close(context.Background())
	v, _ = a.Device("v")
	got := make([]byte, 12)
	_ = v.ReadAt(context.Background(), got, 0)
	if !bytes.Equal(got, []byte("acknowledged")) {
		t.Fatalf("acknowledged write lost by a process death: %q", got)
	}
}
