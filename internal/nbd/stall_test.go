package nbd

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/block/blocktest"
)

// takes is a socket whose client takes so many bytes at a time, each before a deadline
// that passes then.
type takes struct {
	net.Conn
	each      []int
	got       bytes.Buffer
	deadlines int
}

func (s *takes) SetWriteDeadline(time.Time) error { s.deadlines++; return nil }

func (s *takes) Write(p []byte) (int, error) {
	if len(s.each) == 0 {
		return s.got.Write(p)
	}
	n := min(s.each[0], len(p))
	s.each = s.each[1:]
	s.got.Write(p[:n])
	if n == len(p) {
		return n, nil
	}
	return n, os.ErrDeadlineExceeded
}

// TestSender: a client that takes something within each limit is waited for, however
// long all of it takes; one that takes nothing is not.
func TestSender(t *testing.T) {
	head, data := pattern(100, 1), pattern(10000, 2)
	for name, tc := range map[string]struct {
		each []int
		ok   bool
	}{
		"all at once": {nil, true}, "bit by bit": {[]int{1, 98, 1, 10, 1, 5000}, true},
		"nothing": {[]int{0}, false}, "nothing after a part": {[]int{100, 3000, 0}, false},
	} {
		for _, vec := range []bool{false, true} {
			sock := &takes{each: tc.each}
			s := &sender{Conn: sock, limit: time.Minute, draining: new(atomic.Bool)}
			var err error
			if vec {
				v := net.Buffers{bytes.Clone(head), bytes.Clone(data)}
				err = s.writev(&v)
			} else {
				_, err = s.Write(append(bytes.Clone(head), data...))
			}
			switch got := sock.got.Bytes(); {
			case tc.ok && (err != nil || !bytes.Equal(got, append(bytes.Clone(head), data...))):
				t.Errorf("%s, vec %v: %d bytes, %v", name, vec, len(got), err)
			case !tc.ok && !errors.Is(err, os.ErrDeadlineExceeded):
				t.Errorf("%s, vec %v: %v", name, vec, err)
			case sock.deadlines == 0:
				t.Errorf("%s, vec %v: without a deadline", name, vec)
			}
		}
	}
}

// TestSlowClientIsKept: a client that is slow, and not stalled, gets its reply and sends
// its payload although each takes longer than the limit, with TLS as well.
func TestSlowClientIsKept(t *testing.T) {
	const limit, step = time.Second, 64 << 10
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := Options{Exports: exports{"": blocktest.NewMem(testSize)}, StallLimit: limit}
			var client *tls.Config
			if secure {
				p := newPKI(t)
				o.TLS, client = p.server, p.client
				client.ServerName = "localhost"
			}
			_, socket := serve(t, o)
			w := greetWire(t, "unix", socket)
			_ = w.nc.SetDeadline(time.Now().Add(time.Minute))
			if secure {
				w.option(optStartTLS, nil)
				w.wantReplies(optStartTLS, repAck)
				w.nc = tls.Client(w.nc, client)
			}
			w.option(optGo, goData(""))
			w.wantReplies(optGo, repInfo, repAck)
			data := pattern(1<<20, 7)
			w.write(requestMessage(0, cmdWrite, 1, 0, uint32(len(data))))
			for off := 0; off < len(data); off += step {
				w.write(data[off : off+step])
				time.Sleep(limit / 6)
			}
			if e := w.simple(1); e != nbdOK {
				t.Fatalf("error %d", e)
			}
			for range 2 { // sockets' buffers hold much of one
				w.write(requestMessage(0, cmdRead, 2, 0, uint32(len(data))))
			}
			for range 2 {
				if e := w.simple(2); e != nbdOK {
					t.Fatalf("error %d", e)
				}
				var got []byte
				for len(got) < len(data) {
					time.Sleep(limit / 6)
					got = append(got, w.read(step)...)
				}
				wantBytes(t, "reply", got, data)
			}
		})
	}
}

// TestShutdownDoesNotWaitForStalled: a client that takes nothing does not hold up a
// stop for as long as it may stall otherwise.
func TestShutdownDoesNotWaitForStalled(t *testing.T) {
	o := Options{Exports: exports{"": blocktest.NewMem(testSize)}, StallLimit: time.Hour,
		drainLimit: 50 * time.Millisecond}
	s, socket := serve(t, o)
	w := goWire(t, socket, "", false)
	for i := range 8 {
		w.write(requestMessage(0, cmdRead, uint64(i), 0, 1<<20))
	}
	w.read(simpleReplyBytes) // the first one is on its way
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}
