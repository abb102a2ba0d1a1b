package journal

import (
	"net"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// seekJournal asks the peers to be let in, and later, when no leader is to be
// heard, whether this is a member still.
func (m *membership) seekJournal() {
	since := time.Now()
	told := ""
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-time.After(askAgain):
		}
		fresh := len(m.servers()) == 0
		if leader := m.leader(); leader != "" {
			since = time.Now()
		}
		if !fresh && time.Since(since) < leaderlessFactor*m.opts.Election {
			continue
		}
		err := m.requestJoin(m.opts.Cluster.Peers, fresh)
		m.mu.Lock()
		m.seekErr = err
		m.mu.Unlock()
		if err != nil && err.Error() != told && (!fresh || !fail.Is(err, fail.Retry)) {
			told = err.Error()
			m.opts.Logger.Warn("no journal lets this member in", "err", err, "hint", fail.HintOf(err))
		}
	}
}

// JoinAt asks the member at an address, and the leader that it names, to let this
// member in.
func (m *membership) JoinAt(address string) error {
	if m.opts.Cluster == nil {
		return fail.New(fail.Refused, "join", "journal at "+address, "this one is alone").
			WithHint("set journal.listen and restart")
	}
	if len(m.servers()) > 0 {
		return fail.New(fail.Exists, "join", "journal at "+address, "this is a member of a journal already").
			WithHint("pollux journal ls")
	}
	if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
		return fail.New(fail.Invalid, "join", "journal at "+address, "not host:port")
	}
	if address == m.opts.Cluster.Address {
		return fail.New(fail.Invalid, "join", "journal at "+address, "that is this member's own address")
	}
	return m.requestJoin([]string{address}, true)
}

// Waiting says why this member is in no journal, nil where it is in one and was
// not removed from it.
func (m *membership) Waiting() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.servers()) > 0 && m.leader() != "" {
		return nil
	}
	return m.seekErr
}

// requestJoin asks one peer after another, and the leader that one of them names.
func (m *membership) requestJoin(peers []string, fresh bool) (err error) {
	c := m.opts.Cluster
	asked := map[string]bool{}
	for queue := slices.Clone(peers); len(queue) > 0; queue = queue[1:] {
		address := queue[0]
		if asked[address] || address == c.Address {
			continue
		}
		asked[address] = true
		var got change.Joined
		join := change.Join{Member: m.member.id, Address: c.Address, Fresh: fresh, Level: max(0, m.opts.knows),
			Targets: m.opts.targetSpec()}
		e := c.ask(m.ctx, address, change.MsgJoin, join, change.MsgJoined, &got)
		if e == nil && got.Journal != uuid.Nil && fresh {
			m.member.pin(got.Journal) // Raft may come before the answer of the leader
		}
		if e == nil {
			e = got.Error.Err("join", "journal at "+address)
		}
		if e == nil {
			return nil
		}
		if got.Leader != "" {
			queue = append(queue, got.Leader)
		} else if err == nil || fail.Is(err, fail.Retry) {
			err = e
		}
	}
	return err
}
