package verbs

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/journal"
)

// Members carries out the verbs about a journal's members.
type Members struct {
	Journal *journal.Journal
	Log     *slog.Logger
}

var _ api.Members = Members{}

// JournalList lists the members; each is asked where it stands.
func (m Members) JournalList(ctx context.Context, _ struct{}) (api.JournalMembers, error) {
	id, _, _ := m.Journal.ID()
	out := api.JournalMembers{Leader: m.Journal.Status().LeaderAddress, Members: []api.JournalMember{}}
	if id != uuid.Nil {
		out.Journal = id.String()
	}
	if err := m.Journal.Waiting(); err != nil {
		out.Waiting = fail.Explain(err)
	}
	for _, x := range m.Journal.Members(ctx) {
		c := api.JournalMember{ID: x.ID, Address: x.Address, Role: "voter", Level: x.Status.Level,
			Self: x.Self, State: x.Status.State, Version: x.Status.Version, Term: x.Status.Term, Last: x.Status.Last,
			Applied: x.Status.Applied, LogBytes: x.Status.LogBytes}
		switch {
		case x.Leader:
			c.Role = "leader"
		case !x.Voter:
			c.Role = "joining"
		}
		if err := x.Status.Error.Err("", ""); err != nil {
			c.State, c.Error = "unreachable", strings.TrimPrefix(err.Error(), ": ")
		}
		out.Members = append(out.Members, c)
	}
	return out, nil
}

// leadTimeout bounds how long JournalInit waits to be able to show the journal.
const leadTimeout = 10 * time.Second

// JournalInit begins a new journal here.
func (m Members) JournalInit(ctx context.Context, r api.JournalInit) (api.JournalMembers, error) {
	if id, _, _ := m.Journal.ID(); r.DryRun && id != uuid.Nil {
		return api.JournalMembers{}, fail.New(fail.Exists, "init", "journal", "there is one here").
			WithHint("pollux journal ls shows its members")
	}
	if !r.DryRun {
		if err := m.Journal.Init(); err != nil {
			return api.JournalMembers{}, err
		}
		m.Log.Info("journal begun", "by", r.By)
		for end := time.Now().Add(leadTimeout); !m.Journal.Leads() && time.Now().Before(end) && ctx.Err() == nil; {
			time.Sleep(20 * time.Millisecond) // alone, it elects itself
		}
	}
	return m.JournalList(ctx, struct{}{})
}

// JournalJoin joins another member's journal.
func (m Members) JournalJoin(ctx context.Context, r api.JournalJoin) (api.JournalMembers, error) {
	if !r.DryRun {
		if err := m.Journal.JoinAt(r.Address); err != nil {
			return api.JournalMembers{}, err
		}
		m.Log.Info("joined", "journal", r.Address, "by", r.By)
	}
	return m.JournalList(ctx, struct{}{})
}

// JournalRemove ends a membership.
func (m Members) JournalRemove(ctx context.Context, r api.JournalRemove) (api.JournalMembers, error) {
	if err := m.canLose(ctx, r.Member); err != nil {
		return api.JournalMembers{}, err
	}
	if !r.DryRun {
		if err := m.Journal.Remove(r.Member); err != nil {
			return api.JournalMembers{}, err
		}
		m.Log.Warn("member removed", "member", r.Member, "by", r.By)
	}
	out, err := m.JournalList(ctx, struct{}{})
	if err != nil || !r.DryRun {
		return out, err
	}
	i, err := m.memberOf(&out, "remove", r.Member)
	if err == nil && out.Members[i].Role == "leader" {
		err = fail.New(fail.Refused, "remove member", r.Member, "it leads").
			WithHint("pollux journal transfer hands the lead over first")
	}
	if err != nil {
		return api.JournalMembers{}, err
	}
	out.Members = slices.Delete(out.Members, i, i+1)
	return out, nil
}

// memberOf finds a member for a dry run, which must refuse what the run would.
func (m Members) memberOf(all *api.JournalMembers, verb, which string) (int, error) {
	if !m.Journal.Leads() {
		return 0, fail.New(fail.Retry, verb, which, "this member does not lead the journal").
			WithHint("ask the one that does, at " + all.Leader)
	}
	i := slices.IndexFunc(all.Members, func(x api.JournalMember) bool { return x.ID == which || x.Address == which })
	if i < 0 {
		return 0, fail.New(fail.NotFound, "find", "member "+which, "no such member").
			WithHint("pollux journal ls lists them")
	}
	return i, nil
}

// canLose refuses a removal that would leave no majority in touch.
func (m Members) canLose(ctx context.Context, which string) error {
	left, reached := 0, 0
	for _, x := range m.Journal.Members(ctx) {
		if !x.Voter || x.ID == which || x.Address == which {
			continue
		}
		left++
		if x.Status.Error == nil {
			reached++
		}
	}
	if left > 0 && reached <= left/2 {
		return fail.New(fail.Refused, "remove member", which,
			fmt.Sprintf("of the %d voters that would be left, only %d can be reached, which is no majority", left,
				reached)).
			WithHint("bring the others back first, or remove one that is gone: pollux journal ls")
	}
	return nil
}

// JournalTransfer hands the lead over.
func (m Members) JournalTransfer(ctx context.Context, r api.JournalTransfer) (api.JournalMembers, error) {
	if !r.DryRun {
		if err := m.Journal.Transfer(r.Member); err != nil {
			return api.JournalMembers{}, err
		}
		m.Log.Info("lead handed over", "to", r.Member, "by", r.By)
		end := time.Now().Add(leadTimeout)
		for m.Journal.Status().LeaderAddress == "" && time.Now().Before(end) && ctx.Err() == nil {
			time.Sleep(20 * time.Millisecond) // the new leader makes itself known
		}
	}
	out, err := m.JournalList(ctx, struct{}{})
	if err != nil || !r.DryRun || r.Member == "" {
		return out, err
	}
	i, err := m.memberOf(&out, "transfer the lead to", r.Member)
	if err == nil && out.Members[i].Role == "joining" {
		err = fail.New(fail.Refused, "transfer the lead to", r.Member, "it has no vote yet")
	}
	if err != nil {
		return api.JournalMembers{}, err
	}
	for k := range out.Members {
		if out.Members[k].Role == "leader" {
			out.Members[k].Role = "voter"
		}
	}
	out.Members[i].Role, out.Leader = "leader", out.Members[i].Address
	return out, nil
}
