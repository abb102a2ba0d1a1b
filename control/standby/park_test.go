package standby

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbdclient"
)

// parking makes the standby of a pair one that lets clients attach, with all groups.
func (p *pair) parking(more string) { p.b = p.conf("b", "busan", "standby: {park: true}\n"+more) }

// follows waits until all volumes of a standby follow.
func (p *pair) follows(d *Daemon, volumes int) {
	p.t.Helper()
	p.eventually("the standby follows", func() error {
		n := 0
		for _, g := range d.engine.Status().Groups {
			for _, v := range g.Volumes {
				if v.State == "following" {
					n++
				}
			}
		}
		if n != volumes {
			return fmt.Errorf("%+v", d.engine.Status())
		}
		return nil
	})
}

// waiter is a client that is attached to a standby, with a write and a read that wait.
type waiter struct {
	*nbdclient.Conn
	wrote, read chan error
	got         []byte
}

// attach attaches a client that writes fill at an offset, and reads what lies at 0.
func (p *pair) attach(volume string, off int64, fill byte) *waiter {
	p.t.Helper()
	w := &waiter{Conn: p.dial(p.b, volume), wrote: make(chan error, 1), read: make(chan error, 1),
		got: make([]byte, 8192)}
	go func() {
		err := w.WriteAt(p.t.Context(), bytes.Repeat([]byte{fill}, 8192), off, 0)
		if err == nil {
			err = w.Flush(p.t.Context())
		}
		w.wrote <- err
		w.read <- w.ReadAt(p.t.Context(), w.got, 0)
	}()
	return w
}

// waits holds that nothing of it has been answered.
func (w *waiter) waits(t *testing.T) {
	t.Helper()
	select {
	case err := <-w.wrote:
		t.Fatalf("a parked write was answered: %v", err)
	default:
	}
}

// goesOn holds that what waited is done now, and that it read a byte of the image.
func (w *waiter) goesOn(t *testing.T, fill byte) {
	t.Helper()
	if err := <-w.wrote; err != nil {
		t.Errorf("the write that waited: %v", err)
	}
	if err := <-w.read; err != nil || w.got[0] != fill {
		t.Errorf("it reads %q: %v", w.got[:1], err)
	}
}

// ended holds that the connection has ended without an answer.
func (w *waiter) ended(t *testing.T) {
	t.Helper()
	if err := <-w.wrote; err == nil || !strings.Contains(err.Error(), "use NBD connection") {
		t.Errorf("the write that waited: %v", err)
	}
}

// TestParkedHandOver: clients at the other site are attached before, and go on when the hand-over is
// taken up; they see what was written at the seat last, and what they wrote meanwhile is in the log.
func TestParkedHandOver(t *testing.T) {
	p := newPair(t)
	p.parking("")
	a, none := p.seat("v", "w", "x"), new(json.RawMessage)
	defer p.close(a)
	d := p.start(nil)
	defer p.close(d)
	p.follows(d, 3)
	v, w, x := p.attach("v", 65536, 'P'), p.attach("w", 65536, 'P'), p.attach("x", 65536, 'P')
	for _, c := range []*waiter{v, w, x} {
		defer c.Close()
	}
	left := p.dial(p.b, "w")
	parked := func(want string) func() error {
		return func() error {
			var st api.Status
			p.call(p.b, api.VerbStatus, struct{}{}, &st)
			got := []string{}
			for _, v := range st.Standby.Groups[0].Volumes {
				got = append(got, fmt.Sprintf("%s %d", v.Name, v.Parked))
			}
			if !st.Standby.Parks || strings.Join(got, ", ") != want {
				return fmt.Errorf("%v", got)
			}
			return nil
		}
	}
	p.eventually("status shows who waits", parked("v 1, w 2, x 1"))
	_ = left.Close()
	p.call(p.a, api.VerbVolumeRemove, api.VolumeRemove{Name: "x"}, none)
	x.ended(t)
	p.eventually("who has left, or whose volume was removed, is gone", parked("v 1, w 1"))
	p.write(p.a, "v", 0, 'B')
	v.waits(t)
	w.waits(t)
	var out api.HandOverReport
	p.call(p.a, api.VerbHandOver, api.HandOver{To: "busan"}, &out)
	v.goesOn(t, 'B')
	w.goesOn(t, 'A')
	p.want(p.b, "v", map[int64]byte{0: 'B', 65536: 'P'})
	p.drained(p.b)
	for _, name := range []string{"v", "w"} {
		p.eventually("what waited is in the log", func() error {
			return p.inLog(name, map[int64]byte{65536: 'P'})
		})
	}
}

// TestParkedFailover: clients that are attached go on behind a forced failover, cut short or not,
// and behind one to an earlier point; those of volumes that come from the store, too.
func TestParkedFailover(t *testing.T) {
	for _, at := range []string{"", "good"} {
		t.Run("at "+at, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.lost()
			p.parking("")
			cut := at == ""
			d := p.start(func(step string) error {
				if cut && step == "warm" {
					return errStep
				}
				return nil
			})
			p.follows(d, 3)
			v := p.attach("v", 65536, 'P')
			idle := p.dial(p.b, "w")
			defer idle.Close()
			if cut {
				if _, err := p.failover(api.Failover{At: at}); err == nil {
					t.Fatal("it was not cut short")
				}
				v.waits(t)
				cut = false
			}
			if _, err := p.failover(api.Failover{At: at}); err != nil {
				t.Fatal(fail.Explain(err))
			}
			first := byte('X')
			if at != "" {
				first = 'A'
			}
			v.goesOn(t, first)
			b := make([]byte, 8192)
			if err := idle.ReadAt(t.Context(), b, 0); err != nil || b[0] != first {
				t.Errorf("who had no I/O reads %q: %v", b[:1], err)
			}
			p.want(p.b, "v", map[int64]byte{0: first, 65536: 'P'})
			_ = v.Close()
			p.close(d)
		})
	}
}

// TestParkedStops: a standby that stops ends its clients, answers none of them, and takes no time
// for it; they are held again by its next start. Where its address is not free, it says so.
func TestParkedStops(t *testing.T) {
	p := newPair(t)
	p.lost()
	used, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.parking("nbd: {tcp: '" + used.Addr().String() + "'}\n")
	_, err = Start(t.Context(), p.b, Options{Version: "test", Logger: slog.New(slog.DiscardHandler)})
	err = config.Listening(p.b, "b.yaml", err)
	if err == nil || !strings.Contains(err.Error(), "listen on nbd.tcp "+used.Addr().String()) ||
		!strings.Contains(fail.HintOf(err), "another process has that port") {
		t.Errorf("a port that is used: %v, %s", err, fail.HintOf(err))
	}
	_ = used.Close()
	for range 2 {
		d := p.start(nil)
		p.follows(d, 3)
		v := p.attach("v", 65536, 'P')
		p.eventually("it waits", func() error {
			if n := d.clients()["v"]; n != 1 {
				return fmt.Errorf("%d clients", n)
			}
			return nil
		})
		began := time.Now()
		p.close(d)
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("it took %v to stop", took)
		}
		v.ended(t)
		_ = v.Close()
	}
}
