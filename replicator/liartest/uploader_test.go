package liartest

import (
	"context"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/liar"
	"github.com/pollux-dr/pollux/replicator/journal"
	"github.com/pollux-dr/pollux/replicator/journal/uploader"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

const target = "x"

// member is a journal that uploads to a store that lies.
type member struct {
	t    *testing.T
	fs   vfs.FS
	j    *journal.Journal
	u    *uploader.Uploader
	lies *lying
	stop func()
}

// start opens the journal, under a new term, and uploads.
func (m *member) start() {
	m.t.Helper()
	var err error
	m.j, err = journal.Open(m.t.Context(), journal.Options{Dir: "/j", FS: m.fs, Targets: []string{target},
		Required: []string{target}, Election: 5 * time.Millisecond, LogSegmentBytes: 1 << 20})
	if err != nil {
		m.t.Fatal(err)
	}
	s := objstore.WithRetry(m.lies.store,
		objstore.Policy{MinBackoff: time.Millisecond, MaxBackoff: 10 * time.Millisecond,
			Retryable: uploader.Retryable})
	m.u = uploader.New(uploader.Options{Target: target, Journal: m.j, Term: m.j.Term(), Store: s})
	ctx, cancel := context.WithCancel(m.t.Context())
	done := make(chan error, 1)
	go func() { done <- m.u.Run(ctx) }()
	m.stop = func() {
		cancel()
		if err := <-done; err != nil {
			m.t.Errorf("the uploader has ended: %v", err)
		}
		if err := m.j.Close(); err != nil {
			m.t.Error(err)
		}
	}
}

func (m *member) propose(n int) {
	m.t.Helper()
	for range n {
		if _, err := m.j.Propose(state.KindHeartbeat, state.Heartbeat{}); err != nil {
			m.t.Fatal(err)
		}
	}
}

// await polls until done says so.
func (m *member) await(what string, done func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(enough); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			m.t.Fatalf("%s: the target stays at %+v of %d: %+v", what, m.j.Target(target), m.j.LastIndex(),
				m.u.Status())
		}
	}
}

func (m *member) uploaded() bool { return m.j.Target(target).Index == m.j.LastIndex() }

// check: what the journal counts as uploaded is in the store, in order and without a gap.
func (m *member) check() {
	m.t.Helper()
	at, next := m.j.Target(target), uint64(1)
	for pos := uint64(1); pos < at.Position; pos++ {
		x, err := objlog.ReadIndex(m.t.Context(), m.lies.honest, pos)
		if err != nil {
			m.t.Fatalf("the journal counts on position %d: %v", pos, err)
		}
		if x.FirstIndex != next {
			m.t.Fatalf("position %d begins at journal index %d, want %d", pos, x.FirstIndex, next)
		}
		next = x.LastIndex + 1
	}
	if next <= at.Index {
		m.t.Fatalf("the journal counts on index %d, and the log ends before %d", at.Index, next)
	}
	if st := m.u.Status(); st.Fenced || st.Stopped {
		m.t.Fatalf("the uploader has stopped: %+v", st)
	}
}

// TestUpload: whatever the store says, nothing that it has not counts as uploaded; and what
// is true again goes on, under the same lead.
func TestUpload(t *testing.T) {
	srv := startServer(t)
	for _, lie := range liar.Lies() {
		t.Run(lie.Name, func(t *testing.T) {
			t.Parallel()
			m := &member{t: t, fs: vfs.NewMem(), lies: newLying(t, srv)}
			m.lies.Tell(lie, passing, "")
			m.start() // of an empty log
			m.propose(3)
			m.await("the first claim", m.uploaded)
			m.check()
			m.stop()

			m.lies.Tell(lie, passing, "")
			m.start()
			m.propose(3)
			m.await("the second claim", m.uploaded)
			m.check()

			m.lies.Tell(lie, passing, "")
			for range 10 {
				m.propose(2)
			}
			m.await("the feed", m.uploaded)
			m.check()

			m.lies.Tell(lie, -1, "")
			m.propose(3)
			m.await("lies without end", func() bool { return m.lies.Told() > 2*passing || m.uploaded() })
			m.check()
			m.lies.Tell(nil, 0, "")
			m.propose(1)
			m.await("the truth", m.uploaded)
			m.check()
			m.stop()
		})
	}
}
