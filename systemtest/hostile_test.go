package systemtest

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// TestHostileNBD throws garbage at the NBD socket while a good client writes.
func TestHostileNBD(t *testing.T) {
	r := newRand(t)
	s := newSite(t, siteConf{})
	s.mustStart()
	s.volume("g", "v", "4MiB")
	w := newWriter(s, "g", "v", smallBytes, r)
	w.pace = time.Millisecond
	w.connect()
	stop := w.background()
	attacks := rand.New(rand.NewPCG(r.Uint64(), 9))
	for range 300 {
		s.attack(attacks)
	}
	w.progress(100)
	stop()
	w.verify()
	if kib := s.residentKiB(); kib > 512<<10 {
		t.Errorf("the agent has grown to %d KiB", kib)
	}
	s.drained("g", time.Minute)
	w.checkNewest()
	s.stop() // in order, with nobody left hanging
}

// attack opens one connection and misbehaves on it.
func (s *site) attack(r *rand.Rand) {
	s.t.Helper()
	c, err := net.Dial("unix", s.nbdSocket())
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	garbage := make([]byte, 1+r.IntN(4096))
	for i := range garbage {
		garbage[i] = byte(r.Uint32())
	}
	if r.IntN(3) == 0 {
		_, _ = c.Write(garbage) // instead of a handshake; it may be cut short
		return
	}
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.ReadFull(c, make([]byte, 18)); err != nil {
		s.t.Fatalf("no greeting: %v", err)
	}
	_ = c.SetDeadline(time.Now().Add(100 * time.Millisecond)) // an answer to garbage need not come
	be := binary.BigEndian
	hello := be.AppendUint32(nil, 3)
	option, length := uint32(1), uint32(1) // NBD_OPT_EXPORT_NAME "v"
	if r.IntN(3) == 0 {
		option, length = r.Uint32N(12), r.Uint32()
	}
	hello = be.AppendUint64(hello, 0x49484156454F5054)
	hello = be.AppendUint32(be.AppendUint32(hello, option), length)
	_, _ = c.Write(append(hello, 'v'))
	if r.IntN(4) == 0 {
		return // gone in the middle of it
	}
	_, _ = io.ReadFull(c, make([]byte, 10))
	for range 1 + r.IntN(4) {
		req := be.AppendUint32(nil, 0x25609513)
		req = be.AppendUint16(be.AppendUint16(req, uint16(r.Uint32N(1<<16))), uint16(r.IntN(9)))
		if cmd := be.Uint16(req[6:]); cmd == 1 || cmd == 4 || cmd == 6 {
			req = be.AppendUint64(be.AppendUint64(req, r.Uint64()), r.Uint64()|1<<62) // must not change the volume
		} else {
			req = be.AppendUint64(be.AppendUint64(req, r.Uint64()), r.Uint64N(8<<20))
		}
		_, _ = c.Write(be.AppendUint32(req, r.Uint32()))
	}
	_, _ = c.Write(garbage)
	_, _ = c.Read(garbage)
}

func (s *site) residentKiB() (kib int) {
	s.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.agent.PID()))
	if err != nil {
		s.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		s.t.Fatal(err)
	}
	return kib
}
