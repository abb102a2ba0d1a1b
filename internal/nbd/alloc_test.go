//go:build !race

package nbd

import (
	"io"
	"runtime"
	"slices"
	"testing"

	"github.com/pollux-dr/pollux/internal/block"
)

// In the steady state a plain write, a trim and a small read allocate nothing.
func TestNoAllocationsPerRequest(t *testing.T) {
	dev, err := block.OpenFile(tempFile(t, testSize), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dev.Close() })
	_, socket := serve(t, Options{Exports: exports{"": dev}})
	w := goWire(t, socket, "", false)
	const batch, rounds = 16, 200
	for name, tc := range map[string]struct {
		msg   []byte
		reply int
	}{
		"write": {append(requestMessage(0, cmdWrite, 1, 0, 4096), pattern(4096, 1)...), simpleReplyBytes},
		"trim":  {requestMessage(0, cmdTrim, 1, 0, 4096), simpleReplyBytes},
		"read":  {requestMessage(0, cmdRead, 1, 0, 4096), simpleReplyBytes + 4096},
	} {
		send, receive := slices.Repeat(tc.msg, batch), make([]byte, batch*tc.reply)
		var before, after runtime.MemStats
		for i := range 2 * rounds {
			if i == rounds {
				runtime.ReadMemStats(&before)
			}
			w.write(send)
			if _, err := io.ReadFull(w.nc, receive); err != nil {
				t.Fatal(err)
			}
		}
		runtime.ReadMemStats(&after)
		perRequest := float64(after.Mallocs-before.Mallocs) / (batch * rounds)
		t.Logf("%s: %.3f allocations per request", name, perRequest)
		if perRequest > 0.1 {
			t.Errorf("%s: %.3f allocations per request", name, perRequest)
		}
	}
}
