package parked

import (
	"bytes"
	"context"
	"maps"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/block/blocktest"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbd"
	"github.com/pollux-dr/pollux/internal/nbdclient"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const size = 1 << 20

type offers map[string]block.Device

func (o offers) Open(_ context.Context, name string) (block.Device, error) {
	if dev := o[name]; dev != nil {
		return dev, nil
	}
	return nil, fail.New(fail.NotFound, "open", name, "no such volume")
}

func (o offers) List(context.Context) []nbd.Export { return nil }

type metrics struct{ open, requests atomic.Int64 }

func (m *metrics) ConnOpened()                                 { m.open.Add(1) }
func (m *metrics) ConnClosed()                                 { m.open.Add(-1) }
func (m *metrics) Request(string, uint32, time.Duration, bool) { m.requests.Add(1) }

// rig is a server that parks volumes.
type rig struct {
	*Server
	t     *testing.T
	path  string
	known atomic.Pointer[map[string]block.Info]
}

func newRig(t *testing.T, volumes ...string) *rig {
	t.Helper()
	r := &rig{t: t, path: filepath.Join(t.TempDir(), "n.sock")}
	known := map[string]block.Info{}
	for _, v := range volumes {
		known[v] = block.Info{SizeBytes: size, MinBlockBytes: 1, PrefBlockBytes: 4096}
	}
	r.known.Store(&known)
	r.Server = New(nbd.Options{}, func() map[string]block.Info { return *r.known.Load() })
	l, err := net.Listen("unix", r.path)
	if err != nil {
		t.Fatal(err)
	}
	r.Listen(l)
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// know changes what is parked.
func (r *rig) know(edit func(map[string]block.Info)) {
	known := maps.Clone(*r.known.Load())
	edit(known)
	r.known.Store(&known)
}

// client is a connection that counts what it sends and hears.
type client struct {
	*nbdclient.Conn
	wire *wire
}

type wire struct {
	net.Conn
	sent, heard atomic.Int64
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	w.heard.Add(int64(n))
	return n, err
}

func (w *wire) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	w.sent.Add(int64(n))
	return n, err
}

func (r *rig) dial(name string) *client {
	r.t.Helper()
	nc, err := net.Dial("unix", r.path)
	if err != nil {
		r.t.Fatal(err)
	}
	w := &wire{Conn: nc}
	c, err := nbdclient.NewConn(r.t.Context(), w, name, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	w.heard.Store(0)
	return &client{c, w}
}

// begin starts what a client waits for.
func begin(do func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	return done
}

// refused holds that a client's connection ends, and that it has heard nothing.
func (c *client) refused(t *testing.T, what string, done <-chan error) {
	t.Helper()
	if err := <-done; err == nil {
		t.Errorf("%s is answered", what)
	}
	if n := c.wire.heard.Load(); n != 0 {
		t.Errorf("%s: the client has heard %d bytes", what, n)
	}
}

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatal(what)
		}
	}
}

// TestParked: I/O of clients that are attached beforehand waits, and goes on with whoever serves
// then; those that come later are served as any; whose volume is another one, or none, is
// disconnected and hears nothing, whether it has asked for anything or not.
func TestParked(t *testing.T) {
	r := newRig(t, "v", "other", "idle", "gone")
	if _, err := nbdclient.DialAddr(t.Context(), "unix", r.path, "x", nil); err == nil {
		t.Error("a volume that nobody knows is parked")
	}
	v, other, idle, gone := r.dial("v"), r.dial("other"), r.dial("idle"), r.dial("gone")
	reader, silent := r.dial("v"), r.dial("v")
	wrote := begin(func() error {
		err := v.WriteAt(t.Context(), bytes.Repeat([]byte{7}, 4096), 4096, 0)
		if err == nil {
			err = v.Flush(t.Context())
		}
		return err
	})
	b := make([]byte, 4096)
	read := begin(func() error { return reader.ReadAt(t.Context(), b, 0) })
	refused := begin(func() error { return other.Flush(t.Context()) })
	lost := begin(func() error { return gone.Trim(t.Context(), 0, 512, 0) })
	time.Sleep(50 * time.Millisecond) // if any of them were answered, most likely by now
	for _, c := range []*client{v, other, gone, reader} {
		if c.wire.heard.Load() != 0 {
			t.Error("a parked request was answered")
		}
	}
	if got := r.Clients(); !maps.Equal(got, map[string]int{"v": 3, "other": 1, "idle": 1, "gone": 1}) {
		t.Errorf("clients %v", got)
	}
	mem, m := blocktest.NewMem(size), &metrics{}
	small := blocktest.NewMem(size / 2)
	copy(mem.Bytes(), "image")
	r.Resolve(t.Context(), offers{"v": mem, "other": small, "idle": small}, m)
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	if err := <-read; err != nil {
		t.Error(err)
	}
	other.refused(t, "a volume of another size", refused)
	gone.refused(t, "a volume that is not there", lost)
	r.eventually("an idle client of a volume of another size stays", func() bool {
		return idle.Flush(t.Context()) != nil
	})
	idle.refused(t, "of another size", begin(func() error { return idle.Flush(t.Context()) }))
	late := r.dial("v")
	if err := late.ReadAt(t.Context(), b, 4096); err != nil || b[0] != 7 {
		t.Errorf("what was written while parked reads as %d: %v", b[0], err)
	}
	if err := silent.ReadAt(t.Context(), b, 4096); err != nil || b[0] != 7 {
		t.Errorf("who was silent reads %d: %v", b[0], err)
	}
	r.eventually("connections are counted wrong", func() bool { return m.open.Load() == 4 })
	if m.requests.Load() == 0 || r.Clients() != nil {
		t.Errorf("%d requests, %v parked", m.requests.Load(), r.Clients())
	}
	r.Detach(mem)
	if err := v.ReadAt(t.Context(), b, 4096); err == nil {
		t.Error("a device that was detached is served to whom it was parked for")
	}
}

// TestParkedEnds: who waits, or is idle, hears nothing when the server closes, when the volume is
// removed or exchanged, and its place is free when it leaves.
func TestParkedEnds(t *testing.T) {
	r := newRig(t, "v", "w", "x")
	leaves := r.dial("v") // with many requests: the connection's reader waits
	for range 300 {
		go func() { _ = leaves.Flush(t.Context()) }()
	}
	r.eventually("a client is not parked", func() bool { return r.Clients()["v"] == 1 })
	_ = leaves.wire.Conn.Close()
	r.eventually("a client that has left keeps its place", func() bool { return r.Clients()["v"] == 0 })

	w, x, idle := r.dial("w"), r.dial("x"), r.dial("x")
	removed := begin(func() error { return w.Flush(t.Context()) })
	grown := begin(func() error { return x.WriteAt(t.Context(), []byte{1}, 0, nbdclient.FUA) })
	r.know(func(k map[string]block.Info) {
		delete(k, "w")
		k["x"] = block.Info{SizeBytes: 2 * size, MinBlockBytes: 1, PrefBlockBytes: 4096}
	})
	r.Refresh()
	w.refused(t, "a removed volume", removed)
	x.refused(t, "a volume of another size", grown)
	idle.refused(t, "an idle client", begin(func() error { return idle.Flush(t.Context()) }))
	if n := len(r.Clients()); n != 0 {
		t.Errorf("%d clients", n)
	}

	v := r.dial("v")
	closed := begin(func() error { return v.WriteAt(t.Context(), make([]byte, 512), 0, 0) })
	r.eventually("a client is not parked", func() bool { return r.Clients()["v"] == 1 })
	_ = r.Close()
	v.refused(t, "a server that closes", closed)
}

// TestParkedBounded: a client that writes without end is held up at its socket, and takes nothing
// of any device's memory; all of it is written when the volume is served.
func TestParkedBounded(t *testing.T) {
	r := newRig(t, "v")
	v := r.dial("v")
	const each, many = 32 << 10, 400
	var wrote []<-chan error
	for i := range many {
		q := bytes.Repeat([]byte{byte(i)}, each)
		wrote = append(wrote, begin(func() error { return v.WriteAt(t.Context(), q, int64(i%32)*each, 0) }))
	}
	last := int64(-1)
	r.eventually("the client is never held up", func() bool { // nothing more was sent for a while
		now := v.wire.sent.Load()
		defer func() { last = now }()
		time.Sleep(100 * time.Millisecond)
		return now == last
	})
	if last > 4<<20 {
		t.Errorf("%d bytes of one client are held", last)
	}
	mem := blocktest.NewMem(size)
	r.Resolve(t.Context(), offers{"v": mem}, nil)
	for _, w := range wrote {
		if err := <-w; err != nil {
			t.Fatal(err)
		}
	}
	if mem.Buffers() != 0 {
		t.Errorf("%d buffers are left", mem.Buffers())
	}
}
