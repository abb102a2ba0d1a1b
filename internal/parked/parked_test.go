package parked

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/block/blocktest"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbd"
	"github.com/pollux-dr/pollux/internal/nbdclient"
)

const size = 1 << 20

type offers map[string]block.Device

func (o offers) Open(_ context.Context, name string) (block.Device, error) {
	if dev := o[name]; dev != nil {
		return dev, nil
	}
	return nil, fail.New(fail.NotFound, "open", name, "no such volume")
}

func (o offers) List(context.Context) []nbd.Export { return nil }

type counts struct{ open, requests atomic.Int64 }

func (c *counts) ConnOpened()                                 { c.open.Add(1) }
func (c *counts) ConnClosed()                                 { c.open.Add(-1) }
func (c *counts) Request(string, uint32, time.Duration, bool) { c.requests.Add(1) }
func dial(t *testing.T, path, name string) (*nbdclient.Conn, error) {
	t.Helper()
	return nbdclient.DialAddr(t.Context(), "unix", path, name, nil)
}

// TestParked: I/O of clients that are attached beforehand waits, and goes on with whoever serves
// then; those that come later are served as any; a device that is another one is refused.
func TestParked(t *testing.T) {
	info := block.Info{SizeBytes: size, MinBlockBytes: 1, PrefBlockBytes: 4096}
	s := New(nbd.Options{}, func() map[string]block.Info {
		return map[string]block.Info{"v": info, "w": info}
	})
	path := filepath.Join(t.TempDir(), "n.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(t.Context(), l) }()
	defer s.Close()
	if _, err := dial(t, path, "x"); err == nil {
		t.Error("a volume that nobody knows is parked")
	}
	c, err := dial(t, path, "v")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w, err := dial(t, path, "w")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	wrote, other := make(chan error, 1), make(chan error, 1)
	go func() {
		err := c.WriteAt(t.Context(), bytes.Repeat([]byte{7}, 4096), 4096, 0)
		if err == nil {
			err = c.Flush(t.Context())
		}
		wrote <- err
	}()
	go func() { other <- w.ReadAt(t.Context(), make([]byte, 512), 0) }()
	select {
	case err := <-wrote:
		t.Fatalf("a parked write was answered: %v", err)
	case err := <-other:
		t.Fatalf("a parked read was answered: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	mem, m := blocktest.NewMem(size), &counts{}
	s.Resolve(offers{"v": mem, "w": blocktest.NewMem(size / 2)}, m)
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	if err := <-other; err == nil {
		t.Error("a volume of another size is served")
	}
	late, err := dial(t, path, "v")
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	b := make([]byte, 4096)
	if err := late.ReadAt(t.Context(), b, 4096); err != nil || b[0] != 7 {
		t.Errorf("what was written while parked reads as %d: %v", b[0], err)
	}
	if m.open.Load() != 3 || m.requests.Load() == 0 {
		t.Errorf("%d connections, %d requests counted", m.open.Load(), m.requests.Load())
	}
	s.Detach(mem)
	if err := c.ReadAt(t.Context(), b, 4096); err == nil {
		t.Error("a device that was detached is served through what stood for it")
	}
}

// TestParkedEnds: who waits is let go when the server closes.
func TestParkedEnds(t *testing.T) {
	s := New(nbd.Options{}, func() map[string]block.Info { return map[string]block.Info{"v": {SizeBytes: size}} })
	path := filepath.Join(t.TempDir(), "n.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(t.Context(), l) }()
	c, err := dial(t, path, "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	read := make(chan error, 1)
	go func() { read <- c.ReadAt(t.Context(), make([]byte, 512), 0) }()
	time.Sleep(10 * time.Millisecond) // it may wait by now; either way it must end
	s.Close()
	if err := <-read; err == nil {
		t.Error("it was answered")
	}
}
