package nbdclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pollux-dr/pollux/internal/fail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseURI(t *testing.T) {
	for uri, want := range map[string]Target{
		"nbd://host/a/b":                     {Network: "tcp", Addr: "host:10809", Export: "a/b"},
		"nbd://host:99":                      {Network: "tcp", Addr: "host:99"},
		"nbds://[::1]:7/x":                   {Network: "tcp", Addr: "[::1]:7", Export: "x", TLS: true},
		"nbd+unix:///?socket=/run/s":         {Network: "unix", Addr: "/run/s"},
		"nbd+unix:///my%20disk?socket=/r%41": {Network: "unix", Addr: "/rA", Export: "my disk"},
		"nbds+unix:///e?socket=s":            {Network: "unix", Addr: "s", Export: "e", TLS: true},
		"nbd:///x":                           {Network: "tcp", Addr: "localhost:10809", Export: "x"},
	} {
		if got, err := ParseURI(uri); err != nil || got != want {
			t.Errorf("%s: %+v, %v", uri, got, err)
		}
	}
	for _, uri := range []string{"", "http://x", "nbd+unix:///x", "nbd://a:b:c", "/path"} {
		if _, err := ParseURI(uri); !fail.Is(err, fail.Invalid) {
			t.Errorf("%q: %v", uri, err)
		}
	}
}

// servers are other people's: our own server's tests use this client as well.
var servers = map[string]func(file, socket string) *exec.Cmd{
	"nbdkit": func(file, socket string) *exec.Cmd {
		return exec.Command("nbdkit", "-f", "-U", socket, "file", file)
	},
	"nbdkit, simple replies": func(file, socket string) *exec.Cmd {
		return exec.Command("nbdkit", "-f", "--no-sr", "-U", socket, "file", file)
	},
	"qemu-nbd": func(file, socket string) *exec.Cmd {
		return exec.Command("qemu-nbd", "-t", "-e", "8", "-f", "raw", "--discard=unmap", "-k", socket, file)
	},
}

func TestAgainstOtherServers(t *testing.T) {
	for name, command := range servers {
		t.Run(name, func(t *testing.T) {
			const size = 16 << 20
			file := filepath.Join(t.TempDir(), "disk")
			if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, size)); err != nil {
				t.Fatal(err)
			}
			socket := filepath.Join(t.TempDir(), "s")
			cmd := command(file, socket)
			if err := cmd.Start(); err != nil {
				t.Fatalf("%v: apt-get install nbdkit qemu-utils", err)
			}
			defer func() {
				_ = cmd.Process.Signal(syscall.SIGTERM)
				_ = cmd.Wait()
			}()
			exercise(t, dialWait(t, "nbd+unix:///?socket="+socket), size)
		})
	}
}

func dialWait(t *testing.T, uri string) *Conn {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := Dial(t.Context(), uri, nil)
		if err == nil {
			return c
		}
		if !fail.Is(err, fail.Retry) || time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func exercise(t *testing.T, c *Conn, size int64) {
	t.Helper()
	ctx := t.Context()
	if c.Size() != size || c.ReadOnly() {
		t.Errorf("size %d, read-only %v", c.Size(), c.ReadOnly())
	}
	data := bytes.Repeat([]byte("pollux! "), 3<<20/8)
	got := make([]byte, len(data))
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	check("write", c.WriteAt(ctx, data, 1000, FUA))
	check("flush", c.Flush(ctx))
	check("read", c.ReadAt(ctx, got, 1000))
	if !bytes.Equal(got, data) {
		t.Error("read differs")
	}
	clear(data[1<<20 : 2<<20])
	check("zero", c.Zero(ctx, 1000+1<<20, 1<<19, NoHole))
	check("trim", c.Zero(ctx, 1000+3<<19, 1<<19, FUA))
	check("trim", c.Trim(ctx, 8<<20, 1<<20, 0))
	check("cache", errors.Join(c.Cache(ctx, 0, 4096)))
	check("read", c.ReadAt(ctx, got, 1000))
	if !bytes.Equal(got, data) {
		t.Error("read after zeroing differs")
	}
	err := c.ReadAt(ctx, got[:10], size-5)
	if !errors.Is(err, syscall.EINVAL) || !fail.Is(err, fail.Invalid) {
		t.Errorf("read beyond the end: %v", err)
	}
	if extents, err := c.BlockStatus(ctx, 12<<20, 1<<20, 0); !fail.Is(err, fail.Unsupported) {
		check("block status", err)
		if len(extents) == 0 || !extents[0].Zero {
			t.Errorf("extents %v", extents)
		}
	}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			p := bytes.Repeat([]byte{byte(i)}, 4096)
			q := make([]byte, 4096)
			off := int64(i) * 8192
			err := errors.Join(c.WriteAt(ctx, p, off, 0), c.ReadAt(ctx, q, off))
			if err != nil || !bytes.Equal(p, q) {
				t.Errorf("concurrent %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	check("close", c.Close())
	if err := c.Flush(ctx); !fail.Is(err, fail.Retry) {
		t.Errorf("flush after close: %v", err)
	}
	if err := c.Submit(&Request{Op: Flush}); !fail.Is(err, fail.Retry) {
		t.Errorf("submit after close: %v", err)
	}
	check("close again", c.Close())
}

// scripted is a server that completes the handshake and then runs talk.
func scripted(t *testing.T, talk func(nc net.Conn)) *Conn {
	t.Helper()
	here, there := net.Pipe()
	go func() {
		defer func() { _ = there.Close() }()
		b := binary.BigEndian.AppendUint64(nil, magicInit)
		b = binary.BigEndian.AppendUint64(b, magicOption)
		_, _ = there.Write(binary.BigEndian.AppendUint16(b, handshakeFixedNewstyle|handshakeNoZeroes))
		_, _ = io.ReadFull(there, make([]byte, 4))
		reply := func(id, kind uint32, data []byte) {
			b := binary.BigEndian.AppendUint64(nil, magicOptReply)
			b = binary.BigEndian.AppendUint32(b, id)
			b = binary.BigEndian.AppendUint32(b, kind)
			b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
			_, _ = there.Write(append(b, data...))
		}
		for {
			var h [16]byte
			if _, err := io.ReadFull(there, h[:]); err != nil {
				return
			}
			id := binary.BigEndian.Uint32(h[8:])
			_, _ = io.CopyN(io.Discard, there, int64(binary.BigEndian.Uint32(h[12:])))
			switch id {
			case optStructuredReply:
				reply(id, repAck, nil)
			case optGo:
				info := binary.BigEndian.AppendUint64([]byte{0, 0}, 1<<20)
				reply(id, repInfo, binary.BigEndian.AppendUint16(info, 1))
				reply(id, repAck, nil)
				talk(there)
				return
			default:
				reply(id, repErr|1, nil)
			}
		}
	}()
	c, err := NewConn(t.Context(), here, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// A broken server gives an error to every request, and nothing hangs.
func TestBrokenServers(t *testing.T) {
	chunk := func(cookie []byte, flags, kind uint16, data []byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, magicStructuredReply)
		b = binary.BigEndian.AppendUint16(b, flags)
		b = binary.BigEndian.AppendUint16(b, kind)
		b = append(b, cookie...)
		b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
		return append(b, data...)
	}
	off := func(o uint64, rest ...byte) []byte { return append(binary.BigEndian.AppendUint64(nil, o), rest...) }
	for name, answer := range map[string]func(cookie []byte) []byte{
		"hangs up":       func([]byte) []byte { return nil },
		"garbage":        func([]byte) []byte { return bytes.Repeat([]byte{0xaa}, 64) },
		"half a reply":   func(c []byte) []byte { return chunk(c, 0, chunkOffsetData, off(0, 1, 2))[:25] },
		"unknown cookie": func([]byte) []byte { return chunk(off(77), 1, chunkNone, nil) },
		"outside":        func(c []byte) []byte { return chunk(c, 1, chunkOffsetData, off(600, make([]byte, 512)...)) },
		"before":         func(c []byte) []byte { return chunk(c, 1, chunkOffsetHole, append(off(0), 0, 0, 2, 0)) },
		"too short":      func(c []byte) []byte { return chunk(c, 1, chunkOffsetData, off(512, 1, 2, 3)) },
		"huge error":     func(c []byte) []byte { return chunk(c, 1, 1<<15|1, make([]byte, maxReplyBytes+1)) },
		"simple to read": func(c []byte) []byte {
			return slices.Concat(binary.BigEndian.AppendUint32(nil, magicSimpleReply), make([]byte, 4), c,
				make([]byte, 512))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := scripted(t, func(nc net.Conn) {
				var h [requestHeaderBytes]byte
				_, _ = io.ReadFull(nc, h[:])
				_, _ = nc.Write(answer(h[8:16]))
			})
			if err := c.ReadAt(t.Context(), make([]byte, 512), 512); !fail.Is(err, fail.Retry) {
				t.Errorf("read: %v", err)
			}
			if err := c.Flush(t.Context()); !fail.Is(err, fail.Retry) {
				t.Errorf("flush: %v", err)
			}
		})
	}
}

func TestContextEndsCall(t *testing.T) {
	c := scripted(t, func(nc net.Conn) { _, _ = io.Copy(io.Discard, nc) })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	other := make(chan error)
	go func() { other <- c.Flush(context.Background()) }()
	if err := c.ReadAt(ctx, make([]byte, 512), 0); !errors.Is(err, context.DeadlineExceeded) ||
		!fail.Is(err, fail.Retry) {
		t.Errorf("read: %v", err)
	}
	if err := <-other; !fail.Is(err, fail.Retry) {
		t.Errorf("other call: %v", err)
	}
}

func TestDialFails(t *testing.T) {
	if _, err := Dial(t.Context(), "nbd+unix:///?socket=/nonexistent", nil); !fail.Is(err, fail.Retry) {
		t.Errorf("no server: %v", err)
	}
	if _, err := Dial(t.Context(), "nbds://localhost", nil); !fail.Is(err, fail.Invalid) {
		t.Errorf("no TLS configuration: %v", err)
	}
	here, there := net.Pipe()
	defer func() { _ = there.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := NewConn(ctx, here, "", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("silent server: %v", err)
	}
}
