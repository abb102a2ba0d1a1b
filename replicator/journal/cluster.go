package journal

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// Member is one of a journal's members.
type Member struct {
	ID      string
	Address string
	Voter   bool
	Leader  bool
	Self    bool
	Status  change.MemberStatus // Error: it did not answer
}

const (
	membershipTimeout = 20 * time.Second
	promoteEvery      = 500 * time.Millisecond
	askAgain          = time.Second
	// leaderlessFactor is how many election timeouts a member knows of no leader before it
	// asks whether it is one of them still.
	leaderlessFactor = 10
)

// membership is who the journal's members are, as far as this one knows, and the verbs
// that change it.
type membership struct {
	opts    *Options
	ctx     context.Context // ends with the journal
	member  *member
	lead    *lead
	logs    *logStore
	fsm     *fsm
	raft    *raft.Raft
	prepare func() error // gets a journal that was alone ready for others

	voters   atomic.Int32
	changing sync.Mutex // held while the members change
	mu       sync.Mutex
	seekErr  error // why this member is in no journal
}

// Init makes this member the first one of a new journal.
func (m *membership) Init() error {
	if m.opts.Cluster == nil || len(m.servers()) > 0 {
		return fail.New(fail.Exists, "init", "journal", "there is one here").
			WithHint("pollux journal ls shows its members")
	}
	self := raft.Server{ID: raft.ServerID(m.member.id), Address: raft.ServerAddress(m.opts.Cluster.Address)}
	err := m.raft.BootstrapCluster(raft.Configuration{Servers: []raft.Server{self}}).Error()
	if err == raft.ErrCantBootstrap {
		return fail.New(fail.Exists, "init", "journal", "there is one here")
	}
	return fail.Wrap(fail.Internal, "init", "journal", err)
}

// servers is the newest configuration that this member knows.
func (m *membership) servers() []raft.Server { return serversOf(m.raft) }

func serversOf(r *raft.Raft) []raft.Server {
	f := r.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	return f.Configuration().Servers
}

// leader is where the leader is reached, "" where none is known.
func (m *membership) leader() string { return leaderAddress(m.raft) }

// count returns how many voters and members there are.
func (m *membership) count() (voters, members int) {
	for _, s := range m.servers() {
		members++
		if s.Suffrage == raft.Voter {
			voters++
		}
	}
	return voters, members
}

// note takes the members as they are now: lazy entries may be lazy only while nobody
// else counts.
func (m *membership) note() {
	voters, members := m.count()
	m.logs.single.Store(members <= 1)
	m.voters.Store(int32(voters))
}

func (m *membership) notLeader(op, object string) error {
	leader := m.leader()
	e := fail.New(fail.Retry, op, object, "this member does not lead")
	switch {
	case len(m.servers()) == 0:
		e = fail.New(fail.Retry, op, object, "there is no journal here yet")
		return e.WithHint("run `pollux journal init` on one member, once; the others ask their peers")
	case leader == "":
		return e.WithHint("no leader is known: is a majority of the members up?")
	}
	return e.WithHint("the leader is at " + leader)
}

// admit makes a new member one of this journal's, without a vote at first.
func (m *membership) admit(ctx context.Context, r *change.Join) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	if m.opts.Cluster == nil {
		return fail.New(fail.Refused, "join", r.Address, "this journal is alone, and reaches no others").
			WithHint("set journal.listen in its configuration and restart it")
	}
	if !m.lead.Leads() {
		return m.notLeader("join", r.Address)
	}
	var moved raft.Server
	for _, s := range m.servers() {
		if string(s.ID) == r.Member {
			if string(s.Address) == r.Address {
				return nil // it asked before
			}
			moved = s
		}
	}
	if err := m.tooOld(r); err != nil {
		return err
	}
	if moved.ID == "" && !r.Fresh {
		return fail.New(fail.Refused, "join", r.Address, "member "+r.Member+" was removed from this journal").
			WithHint("delete its state directory; it then joins as a new member")
	}
	var there change.MemberStatus
	if err := m.askStatus(ctx, r.Address, &there); err != nil {
		return fail.New(fail.Refused, "join", r.Address, "it cannot be reached there: "+err.Error()).
			WithHint("set its `advertise` address")
	}
	if there.Member != r.Member {
		return fail.New(fail.Refused, "join", r.Address, "another member answers at that address")
	}
	address := raft.ServerAddress(r.Address)
	if moved.ID != "" && moved.Suffrage != raft.Voter {
		return m.change(m.raft.AddNonvoter(moved.ID, address, 0, membershipTimeout), "move", r.Address)
	}
	if moved.ID != "" {
		return m.change(m.raft.AddVoter(moved.ID, address, 0, membershipTimeout), "move", r.Address)
	}
	have := targetSpec(m.fsm.allTargets())
	if !slices.Equal(have, r.Targets) {
		return fail.New(fail.Refused, "join", r.Address,
			fmt.Sprintf("its targets are %v, the journal's %v", r.Targets, have)).
			WithHint("set the same targets in its configuration as in the other members'")
	}
	if err := m.prepare(); err != nil {
		return err
	}
	for _, s := range m.servers() { // whoever was there before has lost its directory
		if s.Address == address {
			m.opts.Logger.Warn("a member lost its directory and is replaced",
				"address", r.Address, "old", s.ID, "new", r.Member)
			if err := m.change(m.raft.RemoveServer(s.ID, 0, membershipTimeout), "remove", string(s.ID)); err != nil {
				return err
			}
		}
	}
	m.logs.single.Store(false)
	err := m.change(m.raft.AddNonvoter(raft.ServerID(r.Member), address, 0, membershipTimeout), "add", r.Address)
	if err == nil {
		m.opts.Logger.Info("member added; it votes once it holds everything", "address", r.Address, "id", r.Member)
	}
	return err
}

func (m *membership) change(f raft.IndexFuture, op, object string) error {
	err := f.Error()
	m.note()
	return fail.Wrap(fail.Retry, op+" member", object, err)
}

// Remove ends a membership; which is an id or an address.
func (m *membership) Remove(which string) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	if !m.lead.Leads() {
		return m.notLeader("remove", which)
	}
	s, err := m.find(which)
	if err != nil {
		return err
	}
	if string(s.ID) == m.member.id {
		return fail.New(fail.Refused, "remove member", which, "it leads").
			WithHint("pollux journal transfer hands the lead over first")
	}
	return m.change(m.raft.RemoveServer(s.ID, 0, membershipTimeout), "remove", which)
}

func (m *membership) find(which string) (raft.Server, error) {
	for _, s := range m.servers() {
		if string(s.ID) == which || string(s.Address) == which {
			return s, nil
		}
	}
	return raft.Server{}, fail.New(fail.NotFound, "find", "member "+which, "no such member").
		WithHint("pollux journal ls lists them")
}

// Transfer hands the lead to another voter; "" leaves the choice to Raft.
func (m *membership) Transfer(which string) error {
	if !m.lead.Leads() {
		return m.notLeader("transfer", "the lead")
	}
	if which == "" {
		return fail.Wrap(fail.Retry, "transfer", "the lead", m.raft.LeadershipTransfer().Error())
	}
	s, err := m.find(which)
	if err != nil {
		return err
	}
	if s.Suffrage != raft.Voter {
		return fail.New(fail.Refused, "transfer the lead to", which, "it has no vote yet")
	}
	if string(s.ID) == m.member.id {
		return nil
	}
	return fail.Wrap(fail.Retry, "transfer the lead to", which,
		m.raft.LeadershipTransferToServer(s.ID, s.Address).Error())
}

// Members lists the members and asks each where it stands.
func (m *membership) Members(ctx context.Context) []Member {
	_, leader := m.raft.LeaderWithID()
	servers := m.servers()
	out := make([]Member, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		out[i] = Member{ID: string(s.ID), Address: string(s.Address), Voter: s.Suffrage == raft.Voter,
			Leader: s.ID == leader, Self: string(s.ID) == m.member.id}
		wg.Go(func() {
			var err error
			out[i].Status, err = m.ask(ctx, s)
			out[i].Status.Error = change.FaultOf(err)
		})
	}
	wg.Wait()
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.Address, b.Address) })
	return out
}

// self is where this member stands.
func (m *membership) self() change.MemberStatus {
	st := change.MemberStatus{Journal: m.member.journalID(), Member: m.member.id, Version: m.opts.Version,
		Level: max(0, m.opts.knows), Site: m.opts.Site, TargetSites: m.opts.targetSites(),
		State: strings.ToLower(m.raft.State().String()), Term: m.raft.CurrentTerm(), Last: m.raft.LastIndex(),
		LogBytes: m.logs.log.Stats().LiveBytes}
	if len(m.servers()) == 0 {
		st.State = "waiting"
	}
	st.Applied = max(m.fsm.figures().applied, m.raft.AppliedIndex())
	return st
}

// tooOld refuses a member whose release does not know all that the journal's log may hold.
func (m *membership) tooOld(r *change.Join) error {
	level := m.fsm.level()
	if r.Level >= level {
		return nil
	}
	return fail.New(fail.Refused, "join", r.Address,
		fmt.Sprintf("its release knows feature level %d, the journal has %d", r.Level, level)).
		WithHint("install the release that the other members have: pollux journal ls")
}

// askStatus asks the member at an address where it stands.
func (m *membership) askStatus(ctx context.Context, address string, st *change.MemberStatus) error {
	return m.opts.Cluster.ask(ctx, address, change.MsgMember, struct{}{}, change.MsgMemberStatus, st)
}

// ask asks a member, this one too, where it stands. Another one at its address is fail.Refused.
func (m *membership) ask(ctx context.Context, s raft.Server) (there change.MemberStatus, err error) {
	if string(s.ID) == m.member.id {
		return m.self(), nil
	}
	err = m.askStatus(ctx, string(s.Address), &there)
	if err == nil && there.Member != string(s.ID) {
		err = fail.New(fail.Refused, "ask", string(s.Address), "another member answers there")
	}
	return there, err
}

// promote gives new members their vote when they hold all that was committed.
func (m *membership) promote(ctx context.Context) {
	tick := time.NewTicker(promoteEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, s := range m.servers() {
			if s.Suffrage == raft.Voter {
				continue
			}
			committed := m.raft.CommitIndex()
			there, err := m.ask(ctx, s)
			if err != nil || there.Applied < committed {
				continue
			}
			m.changing.Lock()
			if !slices.Contains(m.servers(), s) { // removed or moved since it was asked
				m.changing.Unlock()
				break
			}
			err = m.change(m.raft.AddVoter(s.ID, s.Address, 0, membershipTimeout), "promote", string(s.Address))
			m.changing.Unlock()
			if err != nil {
				break // look again
			}
			m.opts.Logger.Info("member votes", "address", s.Address, "id", s.ID)
			if voters, _ := m.count(); voters%2 == 0 && voters > 2 {
				m.opts.Logger.Warn("an even number of voters bears no more losses than one fewer", "voters", voters)
			}
		}
	}
}
