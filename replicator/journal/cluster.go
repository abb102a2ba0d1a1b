package journal

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
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

// Init makes this member the first one of a new journal.
func (j *Journal) Init() error {
	if j.opts.Cluster == nil || len(j.servers()) > 0 {
		return fail.New(fail.Exists, "init", "journal", "there is one here").WithHint("pollux journal ls shows its members")
	}
	servers := raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(j.member.ID), Address: raft.ServerAddress(j.opts.Cluster.Address)}}}
	err := j.raft.BootstrapCluster(servers).Error()
	if err == raft.ErrCantBootstrap {
		return fail.New(fail.Exists, "init", "journal", "there is one here")
	}
	return fail.Wrap(fail.Internal, "init", "journal", err)
}

// servers is the newest configuration that this member knows.
func (j *Journal) servers() []raft.Server { return serversOf(j.raft) }

func serversOf(r *raft.Raft) []raft.Server {
	f := r.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	return f.Configuration().Servers
}

// count returns how many voters and members there are.
func (j *Journal) count() (voters, members int) {
	for _, s := range j.servers() {
		members++
		if s.Suffrage == raft.Voter {
			voters++
		}
	}
	return voters, members
}

// noteMembers lets lazy entries be lazy only while nobody else counts.
func (j *Journal) noteMembers() {
	voters, members := j.count()
	j.logs.single.Store(members <= 1)
	j.voters.Store(int32(voters))
}

func (j *Journal) notLeader(op, object string) error {
	leader := j.leaderAddress()
	e := fail.New(fail.Retry, op, object, "this member does not lead")
	switch {
	case len(j.servers()) == 0:
		e = fail.New(fail.Retry, op, object, "there is no journal here yet")
		return e.WithHint("run `pollux journal init` on one member, once; the others ask their peers")
	case leader == "":
		return e.WithHint("no leader is known: is a majority of the members up?")
	}
	return e.WithHint("the leader is at " + leader)
}

// admit makes a new member one of this journal's, without a vote at first.
func (j *Journal) admit(ctx context.Context, r *change.Join) error {
	j.membership.Lock()
	defer j.membership.Unlock()
	if !j.Leads() {
		return j.notLeader("join", r.Address)
	}
	var moved raft.Server
	for _, s := range j.servers() {
		if string(s.ID) == r.Member {
			if string(s.Address) == r.Address {
				return nil // it asked before
			}
			moved = s
		}
	}
	if err := j.tooOld(r); err != nil {
		return err
	}
	if moved.ID == "" && !r.Fresh {
		return fail.New(fail.Refused, "join", r.Address, "member "+r.Member+" was removed from this journal").
			WithHint("delete its state directory; it then joins as a new member")
	}
	var there change.MemberStatus
	if err := j.askMember(ctx, r.Address, change.MsgMember, struct{}{}, change.MsgMemberStatus, &there); err != nil {
		return fail.New(fail.Refused, "join", r.Address, "it cannot be reached there: "+err.Error()).WithHint("set its `advertise` address")
	}
	if there.Member != r.Member {
		return fail.New(fail.Refused, "join", r.Address, "another member answers at that address")
	}
	if moved.ID != "" && moved.Suffrage != raft.Voter {
		return j.change(j.raft.AddNonvoter(moved.ID, raft.ServerAddress(r.Address), 0, membershipTimeout), "move", r.Address)
	}
	if moved.ID != "" {
		return j.change(j.raft.AddVoter(moved.ID, raft.ServerAddress(r.Address), 0, membershipTimeout), "move", r.Address)
	}
	have := targetSpec(j.fsm.allTargets())
	if !slices.Equal(have, r.Targets) {
		return fail.New(fail.Refused, "join", r.Address, fmt.Sprintf("its targets are %v, the journal's %v", r.Targets, have)).
			WithHint("set the same targets in its configuration as in the other members'")
	}
	if err := j.prepareCopies(); err != nil {
		return err
	}
	for _, s := range j.servers() { // whoever was there before has lost its directory
		if string(s.Address) == r.Address {
			j.opts.Logger.Warn("a member lost its directory and is replaced", "address", r.Address, "old", s.ID, "new", r.Member)
			if err := j.change(j.raft.RemoveServer(s.ID, 0, membershipTimeout), "remove", string(s.ID)); err != nil {
				return err
			}
		}
	}
	j.logs.single.Store(false)
	err := j.change(j.raft.AddNonvoter(raft.ServerID(r.Member), raft.ServerAddress(r.Address), 0, membershipTimeout), "add", r.Address)
	if err == nil {
		j.opts.Logger.Info("member added; it votes once it holds everything", "address", r.Address, "id", r.Member)
	}
	return err
}

func (j *Journal) change(f raft.IndexFuture, op, object string) error {
	err := f.Error()
	j.noteMembers()
	return fail.Wrap(fail.Retry, op+" member", object, err)
}

// prepareCopies sees to it that a new member gets everything: a journal that was
// born alone holds frames that only the agent in its process can read, until a
// snapshot has copied them.
func (j *Journal) prepareCopies() error {
	now := j.fsm.figures()
	if j.member.ID != aloneID || j.logs.firstIndex.Load() >= now.copied {
		return nil
	}
	if now.backlogBytes > maxFirstSnapshotBytes {
		return fail.New(fail.Retry, "add member to", "journal",
			fmt.Sprintf("%d bytes of the time when it was alone are not in the object store yet", now.backlogBytes)).
			WithHint("wait until the backlog is shorter: pollux status")
	}
	if err := j.Snapshot(); err != nil {
		return err
	}
	if j.logs.firstIndex.Load() < now.copied {
		metas, err := j.snaps.List()
		if err != nil {
			return err
		}
		if len(metas) == 0 || metas[0].Index < now.copied {
			return fail.New(fail.Retry, "add member to", "journal", "no snapshot could be taken")
		}
		j.logs.firstIndex.Store(now.copied)
	}
	return nil
}

// maxFirstSnapshotBytes bounds what the first snapshot for others may contain.
const maxFirstSnapshotBytes = 256 << 20

// Remove ends a membership; which is an id or an address.
func (j *Journal) Remove(which string) error {
	j.membership.Lock()
	defer j.membership.Unlock()
	if !j.Leads() {
		return j.notLeader("remove", which)
	}
	s, err := j.find(which)
	if err != nil {
		return err
	}
	if string(s.ID) == j.member.ID {
		return fail.New(fail.Refused, "remove member", which, "it leads").WithHint("pollux journal transfer hands the lead over first")
	}
	return j.change(j.raft.RemoveServer(s.ID, 0, membershipTimeout), "remove", which)
}

func (j *Journal) find(which string) (raft.Server, error) {
	for _, s := range j.servers() {
		if string(s.ID) == which || string(s.Address) == which {
			return s, nil
		}
	}
	return raft.Server{}, fail.New(fail.NotFound, "find", "member "+which, "no such member").WithHint("pollux journal ls lists them")
}

// Transfer hands the lead to another voter; "" leaves the choice to Raft.
func (j *Journal) Transfer(which string) error {
	if !j.Leads() {
		return j.notLeader("transfer", "the lead")
	}
	if which == "" {
		return fail.Wrap(fail.Retry, "transfer", "the lead", j.raft.LeadershipTransfer().Error())
	}
	s, err := j.find(which)
	if err != nil {
		return err
	}
	if s.Suffrage != raft.Voter {
		return fail.New(fail.Refused, "transfer the lead to", which, "it has no vote yet")
	}
	if string(s.ID) == j.member.ID {
		return nil
	}
	return fail.Wrap(fail.Retry, "transfer the lead to", which, j.raft.LeadershipTransferToServer(s.ID, s.Address).Error())
}

// Members lists the members and asks each where it stands.
func (j *Journal) Members(ctx context.Context) []Member {
	_, leader := j.raft.LeaderWithID()
	servers := j.servers()
	out := make([]Member, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		out[i] = Member{ID: string(s.ID), Address: string(s.Address), Voter: s.Suffrage == raft.Voter,
			Leader: s.ID == leader, Self: string(s.ID) == j.member.ID}
		if out[i].Self {
			out[i].Status = j.memberStatus()
			continue
		}
		wg.Go(func() {
			err := j.askMember(ctx, out[i].Address, change.MsgMember, struct{}{}, change.MsgMemberStatus, &out[i].Status)
			if err == nil && out[i].Status.Member != out[i].ID {
				err = fail.New(fail.Refused, "ask", out[i].Address, "another member answers there")
			}
			out[i].Status.Error = change.FaultOf(err)
		})
	}
	wg.Wait()
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.Address, b.Address) })
	return out
}

func (j *Journal) memberStatus() change.MemberStatus {
	st := change.MemberStatus{Journal: j.journalID(), Member: j.member.ID, Version: j.opts.Version, Level: max(0, j.opts.knows), State: strings.ToLower(j.raft.State().String()),
		Term: j.Term(), Last: j.raft.LastIndex(), LogBytes: j.wal.Stats().LiveBytes}
	if len(j.servers()) == 0 {
		st.State = "waiting"
	}
	st.Applied = max(j.fsm.figures().applied, j.raft.AppliedIndex())
	return st
}

// promote gives new members their vote when they hold all that was committed, and takes into
// the state what they make possible.
func (j *Journal) promote(ctx context.Context) {
	tick := time.NewTicker(promoteEvery)
	defer tick.Stop()
	var settled time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if time.Since(settled) >= settleEvery {
			if err := j.settlePlace(ctx); err != nil && ctx.Err() == nil {
				j.opts.Logger.Warn("the journal's place is not in its state yet", "err", err)
			}
			settled = time.Now()
		}
		for _, s := range j.servers() {
			if s.Suffrage == raft.Voter {
				continue
			}
			committed := j.raft.CommitIndex()
			var there change.MemberStatus
			err := j.askMember(ctx, string(s.Address), change.MsgMember, struct{}{}, change.MsgMemberStatus, &there)
			if err != nil || there.Member != string(s.ID) || there.Applied < committed {
				continue
			}
			j.membership.Lock()
			if !slices.Contains(j.servers(), s) { // removed or moved since it was asked
				j.membership.Unlock()
				break
			}
			err = j.change(j.raft.AddVoter(s.ID, s.Address, 0, membershipTimeout), "promote", string(s.Address))
			j.membership.Unlock()
			if err != nil {
				break // look again
			}
			j.opts.Logger.Info("member votes", "address", s.Address, "id", s.ID)
			if voters, _ := j.count(); voters%2 == 0 && voters > 2 {
				j.opts.Logger.Warn("an even number of voters bears no more losses than one fewer", "voters", voters)
			}
		}
	}
}

// seekJournal asks the peers to be let in, and later, when no leader is to be
// heard, whether this is a member still.
func (j *Journal) seekJournal() {
	since := time.Now()
	told := ""
	for {
		select {
		case <-j.ctx.Done():
			return
		case <-time.After(askAgain):
		}
		fresh := len(j.servers()) == 0
		if leader := j.leaderAddress(); leader != "" {
			since = time.Now()
		}
		if !fresh && time.Since(since) < leaderlessFactor*j.opts.Election {
			continue
		}
		err := j.requestJoin(j.opts.Cluster.Peers, fresh)
		j.mu.Lock()
		j.seekErr = err
		j.mu.Unlock()
		if err != nil && err.Error() != told && (!fresh || !fail.Is(err, fail.Retry)) {
			told = err.Error()
			j.opts.Logger.Warn("no journal lets this member in", "err", err, "hint", fail.HintOf(err))
		}
	}
}

// JoinAt asks the member at an address, and the leader that it names, to let this
// member in.
func (j *Journal) JoinAt(address string) error {
	if j.opts.Cluster == nil {
		return fail.New(fail.Refused, "join", "journal at "+address, "this one is alone").WithHint("set journal.listen and restart")
	}
	if len(j.servers()) > 0 {
		return fail.New(fail.Exists, "join", "journal at "+address, "this is a member of a journal already").WithHint("pollux journal ls")
	}
	if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
		return fail.New(fail.Invalid, "join", "journal at "+address, "not host:port")
	}
	if address == j.opts.Cluster.Address {
		return fail.New(fail.Invalid, "join", "journal at "+address, "that is this member's own address")
	}
	return j.requestJoin([]string{address}, true)
}

// Waiting says why this member is in no journal, nil where it is in one and was
// not removed from it.
func (j *Journal) Waiting() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.servers()) > 0 && j.leaderAddress() != "" {
		return nil
	}
	return j.seekErr
}

// requestJoin asks one peer after another, and the leader that one of them names.
func (j *Journal) requestJoin(peers []string, fresh bool) (err error) {
	c := j.opts.Cluster
	asked := map[string]bool{}
	for queue := slices.Clone(peers); len(queue) > 0; queue = queue[1:] {
		address := queue[0]
		if asked[address] || address == c.Address {
			continue
		}
		asked[address] = true
		var got change.Joined
		e := j.askMember(j.ctx, address, change.MsgJoin, change.Join{Member: j.member.ID, Address: c.Address, Fresh: fresh, Level: max(0, j.opts.knows), Targets: j.ownTargets()}, change.MsgJoined, &got)
		if e == nil && got.Journal != uuid.Nil && fresh {
			j.pinJournal(got.Journal) // Raft may come before the answer of the leader
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
