package nbd

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/block/blocktest"
)

// Whatever one client does, the server goes on serving another, takes back all
// that the first one used, and holds no more than its share meanwhile.
func TestHostileClients(t *testing.T) {
	junk := make([]byte, 1<<20)
	rnd := rand.NewChaCha8([32]byte{1})
	_, _ = rnd.Read(junk)
	hello := be32(handshakeFixedNewstyle | handshakeNoZeroes)
	enter := slices.Concat(hello, optionMessage(optExportName, nil))
	var flood, flushes []byte
	for range 10000 {
		flood = append(flood, optionMessage(optInfo, goData(""))...)
		flushes = append(flushes, requestMessage(0, cmdFlush, 1, 0, 0)...)
	}
	for _, tc := range []struct {
		name string
		send []byte
		stay bool // does not hang up by itself; the server has to
	}{
		{name: "silence", stay: true},
		{name: "silence after hello", send: hello, stay: true},
		{name: "garbage", send: junk},
		{name: "garbage options", send: slices.Concat(hello, junk)},
		{name: "garbage requests", send: slices.Concat(enter, junk)},
		{name: "unknown client flags", send: be32(1 << 9), stay: true},
		{name: "oversize option", send: slices.Concat(hello, be64(magicOption), be32(optInfo), be32(1<<31)),
			stay: true},
		{name: "oversize export name", send: slices.Concat(hello, optionMessage(optExportName, make([]byte, 5000))),
			stay: true},
		{name: "half an option", send: slices.Concat(hello, optionMessage(optInfo, goData(""))[:18]), stay: true},
		{name: "flood of options", send: slices.Concat(hello, flood), stay: true},
		{name: "half a request header", send: slices.Concat(enter, requestMessage(0, cmdRead, 1, 0, 512)[:9]),
			stay: true},
		{name: "half a small payload", send: slices.Concat(enter, requestMessage(0, cmdWrite, 1, 0, 4096), junk[:100]),
			stay: true},
		{name: "half a large payload", send: slices.Concat(enter, requestMessage(0, cmdWrite, 1, 0, 4<<20), junk),
			stay: true},
		{name: "half a refused payload", send: slices.Concat(enter, requestMessage(0, cmdWrite, 1, 1<<40, 1<<32-1),
			junk), stay: true},
		{name: "bad magic", send: slices.Concat(enter, make([]byte, requestHeaderBytes)), stay: true},
		{name: "hangs up at once", send: nil},
		{name: "hangs up with work in hand", send: slices.Concat(enter, flushes)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			mem := blocktest.NewMem(testSize)
			s, socket := serve(t, Options{
				Exports:          exports{"": mem},
				StallLimit:       100 * time.Millisecond,
				HandshakeTimeout: 100 * time.Millisecond,
			})
			good := goWire(t, socket, "", false)
			nc := dialRaw(t, socket)
			go func() { _, _ = nc.Write(tc.send) }()
			if !tc.stay {
				time.Sleep(20 * time.Millisecond)
				_ = nc.Close()
			}
			good.alive()
			waitFor(t, "the server hangs up", func() bool { return s.Connections() == 1 })
			waitFor(t, "buffers come back", func() bool { return mem.Buffers() == 0 })
			good.alive()
		})
	}
}

// A client that never reads its replies costs a bounded amount of memory and
// goroutines, and is thrown out.
func TestClientThatNeverReads(t *testing.T) {
	for _, tc := range []struct {
		name string
		msg  []byte
	}{
		{"large reads", requestMessage(cmdFlagDF, cmdRead, 1, 0, 1<<20)},
		{"small reads", requestMessage(0, cmdRead, 1, 0, 4096)},
		{"flushes", requestMessage(0, cmdFlush, 1, 0, 0)},
		{"status", requestMessage(0, cmdBlockStatus, 1, 0, testSize)},
		{"errors", requestMessage(0, 77, 1, 0, 0)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			mem := blocktest.NewMem(testSize)
			s, socket := serve(t, Options{Exports: exports{"": mem}, StallLimit: 300 * time.Millisecond})
			if err := dial(t, socket, "").WriteAt(context.Background(), pattern(testSize, 1), 0, 0); err != nil {
				t.Fatal(err)
			}
			good := goWire(t, socket, "", false)
			before := s.Connections()
			w := goWire(t, socket, "", true)
			heap, goroutines := usage()
			go func() {
				batch := slices.Repeat(tc.msg, 1000)
				for {
					if _, err := w.nc.Write(batch); err != nil {
						return
					}
				}
			}()
			for s.Connections() > before {
				h, g := usage()
				if h > heap+(24<<20) || g > goroutines+140 {
					t.Fatalf("grew by %d bytes and %d goroutines", h-heap, g-goroutines)
				}
				good.alive()
				time.Sleep(20 * time.Millisecond)
			}
			good.alive()
		})
	}
}

func usage() (heapBytes, goroutines int) {
	runtime.GC() // twice, for what sync.Pool keeps over one
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc), runtime.NumGoroutine()
}

func TestTooManyConnections(t *testing.T) {
	mem := blocktest.NewMem(testSize)
	s, socket := serve(t, Options{Exports: exports{"": mem}, MaxConnections: 4})
	first := goWire(t, socket, "", false)
	for range 3 {
		goWire(t, socket, "", false)
	}
	for range 50 {
		w := greetWire(t, "unix", socket)
		w.option(optGo, goData(""))
		w.wantReplies(optGo, repErrPolicy)
		w.option(optExportName, nil)
		w.wantClosed()
	}
	first.alive()
	_ = first.nc.Close()
	waitFor(t, "a slot becomes free", func() bool { return s.Connections() == 3 })
	goWire(t, socket, "", false).alive()
}

// A client that left while the device held its reader up gives its slot to the
// next one.
func TestDeadConnectionIsReaped(t *testing.T) {
	mem := blocktest.NewMem(testSize)
	mem.SetHook(func(ctx context.Context, op blocktest.Op, _, _ int64) error {
		if op == blocktest.Prepare {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	})
	_, socket := serve(t, Options{Exports: exports{"": mem}, MaxConnections: 1})
	w := goWire(t, socket, "", false)
	w.write(append(requestMessage(0, cmdWrite, 1, 0, 512), pattern(512, 1)...))
	time.Sleep(20 * time.Millisecond)
	_ = w.nc.Close()
	goWire(t, socket, "", false).alive()
}

// With MaxInFlight requests waiting for the device, no more are read, and all
// of them are answered when the device goes on.
func TestInFlightLimit(t *testing.T) {
	mem := blocktest.NewMem(testSize)
	entered, release := make(chan struct{}, 100), make(chan struct{})
	mem.SetHook(func(context.Context, blocktest.Op, int64, int64) error {
		entered <- struct{}{}
		<-release
		return nil
	})
	_, socket := serve(t, Options{Exports: exports{"": mem}, MaxInFlight: 3})
	w := goWire(t, socket, "", false)
	for range 20 {
		w.write(requestMessage(0, cmdFlush, 1, 0, 0))
	}
	for range 3 {
		<-entered
	}
	time.Sleep(50 * time.Millisecond)
	if n := len(entered); n != 0 {
		t.Errorf("%d requests beyond the limit", n)
	}
	close(release)
	for range 20 {
		w.simple(1)
	}
}

// Replies that are ready leave although their reader is stuck in the device.
func TestRepliesLeaveDespiteBackPressure(t *testing.T) {
	for _, size := range []int{512, 100 << 10, 3 << 20} {
		mem := blocktest.NewMem(testSize)
		release := make(chan struct{})
		_, socket := serve(t, Options{Exports: exports{"": mem}})
		w := goWire(t, socket, "", false)
		n := 0
		mem.SetHook(func(_ context.Context, op blocktest.Op, _, _ int64) error {
			if op == blocktest.Prepare {
				if n++; n == 2 {
					<-release
				}
			}
			return nil
		})
		msg := append(requestMessage(0, cmdWrite, 1, 0, 512), pattern(512, 1)...)
		msg = append(msg, requestMessage(0, cmdWrite, 2, 0, uint32(size))...)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = w.nc.Write(append(msg, pattern(size, 2)...))
		}()
		_ = w.nc.SetReadDeadline(time.Now().Add(5 * time.Second))
		if e := w.simple(1); e != nbdOK {
			t.Fatalf("error %d", e)
		}
		close(release)
		if e := w.simple(2); e != nbdOK {
			t.Fatalf("error %d", e)
		}
		<-done
	}
}

// A stalled payload takes no memory of the device if it is small.
func TestStalledSmallPayloadTakesNoBuffer(t *testing.T) {
	mem := blocktest.NewMem(testSize)
	_, socket := serve(t, Options{Exports: exports{"": mem}})
	w := goWire(t, socket, "", false)
	w.write(append(requestMessage(0, cmdWrite, 1, 0, smallPayloadBytes), pattern(smallPayloadBytes-1, 1)...))
	time.Sleep(50 * time.Millisecond)
	if n := mem.Buffers(); n != 0 {
		t.Errorf("%d buffers taken", n)
	}
	w.write([]byte{1})
	if e := w.simple(1); e != nbdOK {
		t.Errorf("error %d", e)
	}
}

// net.Pipe has no buffers at all: any hidden assumption about them deadlocks.
func TestServeConnOverPipe(t *testing.T) {
	mem := blocktest.NewMem(testSize)
	s := New(Options{Exports: exports{"": mem}})
	here, there := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.ServeConn(there)
	}()
	w := &wire{t: t, nc: here}
	w.read(18)
	w.write(be32(handshakeFixedNewstyle | handshakeNoZeroes))
	w.option(optExportName, nil)
	w.read(10)
	for i := range 100 {
		w.write(append(requestMessage(0, cmdWrite, uint64(i), uint64(i)*512, 512), pattern(512, byte(i))...))
		w.simple(uint64(i))
		w.write(requestMessage(0, cmdRead, 1, uint64(i)*512, 512))
		w.simple(1)
		wantBytes(t, "read", w.read(512), pattern(512, byte(i)))
	}
	w.write(requestMessage(0, cmdDisc, 0, 0, 0))
	<-ended
	_ = s.Close()
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("does not happen: %s", what)
		}
	}
}

func be64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }
