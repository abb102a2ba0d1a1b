package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pollux-dr/pollux/internal/fail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is two ends of one connection.
func pair(t *testing.T) (a, b *Conn) {
	t.Helper()
	x, y := net.Pipe()
	a, b = NewConn(x, time.Minute), NewConn(y, time.Minute)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// feed is a connection that delivers b, in pieces, and ends.
type feed struct {
	net.Conn
	r io.Reader
}

func (f feed) Read(b []byte) (int, error) { return f.r.Read(b[:min(len(b), 7)]) }
func (f feed) Close() error               { return nil }
func (f feed) RemoteAddr() net.Addr       { return &net.UnixAddr{Name: "peer", Net: "unix"} }

func receiver(b []byte) *Conn { return NewConn(feed{r: bytes.NewReader(b)}, time.Minute) }

// capture keeps what is sent.
type capture struct {
	feed
	out *bytes.Buffer
}

func (c capture) Write(b []byte) (int, error)      { return c.out.Write(b) }
func (c capture) SetWriteDeadline(time.Time) error { return nil }

func encoded(t testing.TB, typ uint16, parts ...[]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := NewConn(capture{out: &out}, time.Minute).Send(typ, parts...); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestRoundTrip(t *testing.T) {
	a, b := pair(t)
	r := rand.New(rand.NewPCG(1, 1))
	sizes := []int{0, 1, 100, 64 << 10, 300 << 10, MaxMessageBytes}
	var sent [][]byte
	for _, n := range sizes {
		body := make([]byte, n)
		for i := range body {
			body[i] = byte(r.Uint32())
		}
		sent = append(sent, body)
	}
	var g sync.WaitGroup
	defer g.Wait()
	g.Go(func() {
		for i, body := range sent {
			cut := len(body) / 3
			if err := a.Send(uint16(i), body[:cut], nil, body[cut:]); err != nil {
				t.Error(err)
			}
		}
	})
	for i, body := range sent {
		typ, got, err := b.Recv()
		if err != nil || typ != uint16(i) || !bytes.Equal(got, body) {
			t.Fatalf("message %d: type %d, %d bytes, %v", i, typ, len(got), err)
		}
	}
}

// TestManySenders: messages of many goroutines never mix.
func TestManySenders(t *testing.T) {
	a, b := pair(t)
	const senders, each = 8, 50
	var g sync.WaitGroup
	defer g.Wait()
	for s := range senders {
		g.Go(func() {
			for i := range each {
				text := []byte(fmt.Sprintf("%d/%d", s, i))
				if err := a.Send(uint16(s), text, bytes.Repeat(text, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var next [senders]int
	for range senders * each {
		typ, got, err := b.Recv()
		if err != nil {
			t.Fatal(err)
		}
		i := next[typ]
		next[typ]++
		if want := bytes.Repeat([]byte(fmt.Sprintf("%d/%d", typ, i)), i+1); !bytes.Equal(got, want) {
			t.Fatalf("sender %d, message %d: %q", typ, i, got)
		}
	}
}

// TestFlips damages every bit of a message.
func TestFlips(t *testing.T) {
	orig := encoded(t, 5, []byte("what was sent"))
	for off := range orig {
		for bit := range 8 {
			b := bytes.Clone(orig)
			b[off] ^= 1 << bit
			_, _, err := receiver(b).Recv()
			version := off == 4 || off == 5
			switch {
			case version && fail.Is(err, fail.Unsupported) && strings.Contains(err.Error(), "protocol version"):
			case !version && fail.Is(err, fail.Damaged) && strings.Contains(err.Error(), "at byte"):
			default:
				t.Fatalf("byte %d bit %d: %v", off, bit, err)
			}
		}
	}
}

func TestCuts(t *testing.T) {
	orig := encoded(t, 5, []byte("what was sent"))
	for n := range orig {
		if _, _, err := receiver(orig[:n]).Recv(); !fail.Is(err, fail.Retry) {
			t.Fatalf("%d of %d bytes: %v", n, len(orig), err)
		}
	}
}

// head makes a message's head with good checksums.
func head(version uint16, n, sum uint32) []byte {
	h := make([]byte, HeadBytes)
	copy(h, magic)
	binary.LittleEndian.PutUint16(h[4:], version)
	binary.LittleEndian.PutUint32(h[8:], n)
	binary.LittleEndian.PutUint32(h[12:], sum)
	binary.LittleEndian.PutUint32(h[20:], crc32.Checksum(h[:20], castagnoli))
	return h
}

func TestLimits(t *testing.T) {
	for _, n := range []uint32{MaxMessageBytes + 1, 1 << 31, 1<<32 - 1} {
		c := receiver(head(Version, n, 0))
		if _, _, err := c.Recv(); !fail.Is(err, fail.Damaged) || !strings.Contains(err.Error(), "at byte 8") {
			t.Errorf("%d bytes: %v", n, err)
		}
		if cap(c.buf) > 0 {
			t.Errorf("%d bytes were allocated for a message beyond the limit", cap(c.buf))
		}
	}
	if _, _, err := receiver(head(9, 0, 0)).Recv(); !fail.Is(err, fail.Unsupported) ||
		!strings.Contains(err.Error(), "protocol version 9") {
		t.Errorf("version 9: %v", err)
	}
	var out bytes.Buffer
	err := NewConn(capture{out: &out}, time.Minute).Send(1, make([]byte, MaxMessageBytes), []byte{1})
	if !fail.Is(err, fail.Internal) || out.Len() > 0 {
		t.Errorf("send beyond the limit: %v, %d bytes out", err, out.Len())
	}
}

// TestSendTimeout: a peer that does not read fails the sender, and the
// connection with it: half a message may be out.
func TestSendTimeout(t *testing.T) {
	x, y := net.Pipe()
	defer y.Close()
	c := NewConn(x, time.Millisecond)
	err := c.Send(1, make([]byte, 1000))
	if !fail.Is(err, fail.Retry) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("send: %v", err)
	}
	if err := c.Send(1); !fail.Is(err, fail.Retry) {
		t.Errorf("send on a broken connection: %v", err)
	}
}

func TestCloseUnblocks(t *testing.T) {
	a, _ := pair(t)
	done := make(chan error)
	go func() { _, _, err := a.Recv(); done <- err }()
	a.Close()
	if err := <-done; !fail.Is(err, fail.Retry) {
		t.Errorf("receive: %v", err)
	}
}

// FuzzRecv: any bytes give messages that were sent so, or an error.
func FuzzRecv(f *testing.F) {
	seed := func(b []byte) { f.Add(b) }
	seed(encoded(f, 1))
	seed(encoded(f, 5, []byte("one"), []byte("two")))
	seed(append(encoded(f, 1, []byte("a")), encoded(f, 2, make([]byte, 300))...))
	seed(head(Version, 1<<31, 0))
	seed([]byte("\x16\x03\x0100000000000000000000000"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := receiver(b)
		rest := b
		for {
			typ, got, err := c.Recv()
			if err != nil {
				k := fail.KindOf(err)
				tls := k == fail.Refused && len(rest) > 0 && rest[0] == 0x16 // a client's hello
				if k != fail.Retry && k != fail.Damaged && k != fail.Unsupported && !tls {
					t.Fatal(err)
				}
				return
			}
			sent := encoded(t, typ, got)
			// Reserved bytes may differ, under a good checksum.
			if len(sent) > len(rest) || !bytes.Equal(sent[:16], rest[:16]) ||
				!bytes.Equal(sent[HeadBytes:], rest[HeadBytes:len(sent)]) {
				t.Fatalf("received %d %q of %q", typ, got, rest)
			}
			rest = rest[len(sent):]
		}
	})
}
