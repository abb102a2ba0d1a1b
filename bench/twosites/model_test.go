package twosites

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

func testPool() []byte {
	pool := make([]byte, 1<<20)
	for i := range pool {
		pool[i] = byte(i>>9) | 1
	}
	return pool
}

// TestModel: the image at each LSN is what the requests up to there have made, whatever came over it
// later; a byte that differs is found.
func TestModel(t *testing.T) {
	const size = 3 << 20
	m := NewModel(size, 1, testPool())
	image := make([]byte, size)
	var at [][]byte
	for _, o := range []op{{off: 4096, len: 8192, pool: 512}, {off: 8192, len: 512, pool: -1}, {mark: true},
		{off: 8192 + 512, len: 4096, pool: 65536}, {off: size - 1024, len: 1024, pool: 0}} {
		at = append(at, bytes.Clone(image))
		m.add(o)
		switch {
		case o.mark:
		case o.pool < 0:
			clear(image[o.off:][:o.len])
		default:
			copy(image[o.off:][:o.len], m.pool[o.pool:])
		}
	}
	at = append(at, image)
	for lsn, want := range at {
		if err := m.Compare(t.Context(), "it", bytes.NewReader(want), uint64(lsn)); err != nil {
			t.Error(err)
		}
	}
	image[8192+512+7]++
	err := m.Compare(t.Context(), "it", bytes.NewReader(image), 5)
	if !fail.Is(err, fail.Damaged) || !strings.Contains(err.Error(), "in byte 8711") {
		t.Errorf("a byte that differs: %v", err)
	}
	if got := m.Writes(); got != 4 {
		t.Errorf("%d writes", got)
	}
}

// TestFork: what was sent behind the place where a volume went on is lost there, and known here.
func TestFork(t *testing.T) {
	for _, base := range []uint64{0, 1000} {
		m := NewModel(1<<20, 1, testPool())
		m.Base = base
		for i := range 5 {
			m.add(op{off: int64(i) * 4096, len: 4096})
		}
		for _, n := range []uint64{1, 2, 4} {
			m.ack(base + n)
		}
		if m.covered() != base+2 || m.Acked() != base+4 || m.Sent() != base+5 {
			t.Errorf("covered %d, acknowledged %d, sent %d", m.covered(), m.Acked(), m.Sent())
		}
		n := m.Fork(base + 3)
		if lsn := n.add(op{off: 512, len: 4096}); lsn != base+4 || m.Sent() != base+5 {
			t.Errorf("it goes on with LSN %d, and the one before has %d", lsn, m.Sent())
		}
		if writes, _ := m.Loss(base+3, time.Now()); writes != 1 {
			t.Errorf("%d writes are lost, one was acknowledged", writes)
		}
		blocks := map[int64]bool{}
		m.Changed(base+3, base+5, blocks)
		n.Changed(base+3, base+4, blocks)
		if len(blocks) != 4 { // 3 and 4 there, 0 and 1 here
			t.Errorf("changed blocks %v", blocks)
		}
	}
}

// TestPulse: the longest pause is between two successes, over a reset too.
func TestPulse(t *testing.T) {
	var p Pulse
	(*Pulse)(nil).beat()
	p.beat()
	p.Reset()
	time.Sleep(20 * time.Millisecond) // what is measured
	p.beat()
	p.beat()
	if got := p.Longest(); got < 20*time.Millisecond || got > time.Minute {
		t.Errorf("longest %v", got)
	}
}
