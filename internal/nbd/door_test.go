package nbd

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/block/blocktest"
)

// TestListenersHaveTheirOwnPlaces: whatever clients of other hosts do, the unix socket
// takes connections, and takes their payloads.
func TestListenersHaveTheirOwnPlaces(t *testing.T) {
	hello := be32(handshakeFixedNewstyle | handshakeNoZeroes)
	enter := append(hello, optionMessage(optExportName, nil)...)
	for _, tc := range []struct {
		name string
		send []byte
	}{
		{"half-open", nil},
		{"idle", enter},
		{"stalled in a payload", append(append(enter, requestMessage(0, cmdWrite, 1, 0, 1<<20)...),
			pattern(smallPayloadBytes*2, 1)...)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			const most = 8
			s, socket := serve(t, Options{Exports: exports{"": blocktest.NewMem(testSize)}, MaxConnections: most,
				ReceiveBudgetBytes: 1})
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			wg.Go(func() { _ = s.Serve(context.Background(), l) })
			defer wg.Wait()
			defer s.Close()
			for range most {
				nc, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer nc.Close()
				if _, err := nc.Write(tc.send); err != nil {
					t.Fatal(err)
				}
			}
			waitFor(t, "all of them are in", func() bool { return s.Connections() == most })
			w := goWire(t, socket, "", false)
			w.write(append(requestMessage(0, cmdWrite, 7, 0, 256<<10), pattern(256<<10, 2)...))
			_ = w.nc.SetReadDeadline(time.Now().Add(5 * time.Second))
			if e := w.simple(7); e != nbdOK {
				t.Errorf("error %d", e)
			}
		})
	}
}

// TestHalfOpenKeepNobodyOut: of those that negotiate for ever, the oldest goes.
func TestHalfOpenKeepNobodyOut(t *testing.T) {
	_, socket := serve(t, Options{Exports: exports{"": blocktest.NewMem(testSize)}, HandshakeTimeout: time.Minute})
	first := greetWire(t, "unix", socket)
	for range minNewcomers {
		dialRaw(t, socket)
	}
	goWire(t, socket, "", false).alive()
	first.wantClosed()
}
