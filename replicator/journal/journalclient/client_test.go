package journalclient_test

import (
	"context"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/journal"
	"github.com/pollux-dr/pollux/replicator/journal/journalclient"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func dial(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", address)
}

// member is a real journal of one, on loopback.
type member struct {
	*journal.Journal
	t       *testing.T
	dir     string
	address string
	stop    func()
}

func newMember(t *testing.T) *member {
	t.Helper()
	m := &member{t: t, dir: t.TempDir()}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.address = l.Addr().String()
	m.serve(l)
	if err := m.Init(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.stop() })
	return m
}

func (m *member) serve(l net.Listener) {
	m.t.Helper()
	var err error
	m.Journal, err = journal.Open(m.t.Context(), journal.Options{Dir: m.dir, Site: "here", Targets: []string{"x"},
		Election: 100 * time.Millisecond, Cluster: &journal.Cluster{Address: m.address, Dial: dial}})
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	j := m.Journal
	go func() { done <- j.Serve(ctx, l) }()
	m.stop = func() {
		m.stop = func() {}
		cancel()
		if err := <-done; err != nil {
			m.t.Error(err)
		}
		if err := j.Close(); err != nil {
			m.t.Error(err)
		}
	}
}

func (m *member) restart() {
	m.t.Helper()
	l, err := net.Listen("tcp", m.address)
	if err != nil {
		m.t.Fatal(err)
	}
	m.serve(l)
}

// follow runs a client of agent "a" until the test ends.
func follow(t *testing.T, address string, pin func(string) error) *journalclient.Client {
	t.Helper()
	c := journalclient.New(journalclient.Options{Agent: "a", Finder: transport.NewFinder([]string{address}, dial),
		Logger: slog.New(slog.DiscardHandler), Pin: pin})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return c
}

// until waits for what changes with the client's copy.
func until(t *testing.T, c *journalclient.Client, what string, ok func() bool) {
	t.Helper()
	for end := time.After(30 * time.Second); ; {
		changed := c.Changed()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-end:
			t.Fatalf("%s does not come: %v", what, c.Err())
		}
	}
}

func revision(c *journalclient.Client) (revision uint64) {
	c.View(func(s *state.State) {
		if g := s.Groups["g"]; g != nil {
			revision = g.Revision
		}
	})
	return revision
}

// TestFollow: a command's effect is in the copy when it is answered; the copy outlives the
// session, and the next session brings it up to date.
func TestFollow(t *testing.T) {
	m := newMember(t)
	c := follow(t, m.address, nil)
	until(t, c, "the seat", func() (known bool) {
		c.View(func(s *state.State) { known = s.Seat.Site == "here" && s.Level == state.Level })
		return known && c.Synced() && c.Err() == nil
	})
	if id, epoch, site := c.ID(); id.String() == "" || epoch != 1 || site != "here" {
		t.Errorf("journal %s, epoch %d, site %s", id, epoch, site)
	}
	patch := state.GroupPatch{Name: "g", Create: true, Owner: "a", Ack: new("local")}
	if _, err := c.Propose(state.KindGroupPatch, patch); err != nil || revision(c) != 1 {
		t.Fatalf("revision %d, %v", revision(c), err)
	}
	if _, err := c.Propose(state.KindGroupPatch, patch); !fail.Is(err, fail.Exists) {
		t.Errorf("created twice: %v", err)
	}

	m.stop()
	until(t, c, "its loss", func() bool { return c.Err() != nil })
	if c.Info().Leader != "" || !c.Synced() || revision(c) != 1 {
		t.Errorf("without a session: %+v, revision %d", c.Info(), revision(c))
	}
	if err := c.Submit(state.KindGroupPatch, state.GroupPatch{Name: "g", Revision: 1}); !fail.Is(err, fail.Retry) {
		t.Errorf("without a session: %v", err)
	}
	m.restart()
	until(t, c, "the next session", func() bool { return c.Err() == nil })
	patch = state.GroupPatch{Name: "g", Revision: 1, Paused: new(true)}
	if _, err := c.Propose(state.KindGroupPatch, patch); err != nil || revision(c) != 2 {
		t.Errorf("revision %d, %v", revision(c), err)
	}
}

// TestPin: a journal that is not the agent's is not followed.
func TestPin(t *testing.T) {
	m := newMember(t)
	var asked atomic.Int32
	other := fail.New(fail.Refused, "follow", "journal", "another one")
	c := follow(t, m.address, func(string) error {
		asked.Add(1)
		return other
	})
	until(t, c, "the refusal", func() bool { return fail.Is(c.Err(), fail.Refused) })
	if c.Synced() || asked.Load() == 0 {
		t.Errorf("synced %v, asked %d times", c.Synced(), asked.Load())
	}
}
