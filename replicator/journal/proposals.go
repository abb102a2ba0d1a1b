package journal

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
)

// proposer puts entries into Raft's log, and waits for what the FSM says of them.
type proposer struct {
	raft    *raft.Raft
	failure func() error // why the journal cannot go on, if it cannot
	members *membership
	ctx     context.Context // ends with the journal
	over    atomic.Pointer[change.Superseded]
}

// start proposes an entry, which begins with what it is.
func (p *proposer) start(tag byte, body []byte) raft.ApplyFuture {
	return p.raft.Apply(append([]byte{tag}, body...), applyTimeout)
}

// wait waits until an entry is applied; what the FSM refuses is the result's error.
func (p *proposer) wait(f raft.ApplyFuture) (result, error) {
	if err := f.Error(); err != nil {
		if cause := p.failure(); cause != nil {
			err = cause
		}
		return result{}, fail.Wrap(fail.Retry, "append to", "journal", err)
	}
	r, ok := f.Response().(result)
	if !ok {
		return result{}, fail.New(fail.Internal, "apply", "journal entry", "no result")
	}
	return r, nil
}

// apply proposes an entry and waits for its result.
func (p *proposer) apply(tag byte, body []byte) (result, error) {
	r, err := p.wait(p.start(tag, body))
	if err == nil {
		err = r.err
	}
	return r, err
}

// Propose applies a control command and returns its journal index.
func (p *proposer) Propose(kind state.Kind, v any) (uint64, error) {
	return p.proposeChecked(state.Encode(kind, v), nil)
}

// proposeChecked proposes a command that is in order as such, and that may, if it is
// asked, does not refuse. Nothing else gets into Raft's log.
func (p *proposer) proposeChecked(command []byte, may func(state.Kind, []byte) error) (uint64, error) {
	kind, body, err := state.Open(command)
	if err == nil {
		err = p.mayExtend()
	}
	if err == nil {
		err = state.Check(kind, body)
	}
	if err == nil && may != nil {
		err = may(kind, body)
	}
	if err == nil {
		err = state.CheckLevel(kind, p.members.fsm.level())
	}
	if err != nil {
		return 0, err
	}
	r, err := p.apply(tagCommand, command)
	return r.index, err
}

// submitTimeout bounds Submit: there may be no leader for a moment.
const submitTimeout = 5 * time.Second

// Submit is Propose by whichever member leads.
func (p *proposer) Submit(kind state.Kind, v any) error {
	for end := time.Now().Add(submitTimeout); ; {
		err := p.submitOnce(kind, v)
		if !fail.Is(err, fail.Retry) || time.Now().After(end) {
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-p.ctx.Done():
			return err
		}
	}
}

func (p *proposer) submitOnce(kind state.Kind, v any) error {
	if p.members.lead.Leads() {
		_, err := p.Propose(kind, v)
		return err
	}
	leader, cluster := p.members.leader(), p.members.opts.Cluster
	if leader == "" || cluster == nil {
		return p.members.notLeader("propose to", "journal")
	}
	var got change.Proposed
	err := cluster.ask(p.ctx, leader, change.MsgSubmit, change.Propose{Command: state.Encode(kind, v)},
		change.MsgProposed, &got)
	if err != nil {
		return err
	}
	return got.Error.Err("propose to", "journal")
}
