package journal

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/text"
)

// An optional target never holds anything back. What is kept for it alone is bounded
// by Options.OptionalBytes; beyond that the leader lets it go, by an entry: all
// members forget what only it lacked. Its object log then ends at some journal index,
// and what follows is in the other targets. Once it is filled from one of them up to
// about the floor, another entry has everything from the floor on kept for it again;
// when it is filled up to there too, it is a target like any other.

// LetGo says why a target was let go, and how far behind it was then.
type LetGo struct {
	Reason string    `json:"reason"`
	Time   time.Time `json:"time,omitzero"`
	Oldest time.Time `json:"oldest,omitzero"` // of the frames that it lacked, the first one's time
	Bytes  int64     `json:"bytes,omitempty"` // of the frames that it lacked
}

// needs is the first entry that is kept for the target.
func (t *Target) needs() uint64 {
	switch {
	case t.LetGo == nil:
		return t.Index + 1
	case t.From == 0:
		return ^uint64(0)
	}
	return max(t.Index+1, t.From)
}

// Missing reports whether entries between what the target has, up to index, and what
// is kept for it are not here, or may be gone at any time.
func (t *Target) Missing(index uint64) bool {
	return t.LetGo != nil && (t.From == 0 || index+1 < t.From)
}

// settle makes a target that was let go one like any other, once nothing is missing.
func (t *Target) settle() {
	if t.From > 0 && t.Index+1 >= t.From {
		t.LetGo, t.From, t.Kept = nil, 0, nil
	}
}

// underWayBytes may be kept for an optional target even while appends wait for room:
// so much may just be on its way to it.
const underWayBytes = 32 << 20

// overdue finds an optional target for which more is kept than its share, and that no
// required target needs. While appends wait for room, no share is left.
func (t *targets) overdue() (name string, why LetGo) {
	limit, full := t.opts.OptionalBytes, false
	if w := t.logs.log.Stats(); w.LiveBytes > w.BudgetBytes {
		limit, full = min(limit, underWayBytes), true
	}
	name, lacks, held := t.fsm.overdue(limit)
	if name == "" {
		return "", LetGo{}
	}
	reason := fmt.Sprintf("%s were kept for this optional target alone; its share is %s",
		text.Bytes(held), text.Bytes(t.opts.OptionalBytes))
	if full {
		reason = fmt.Sprintf("the journal's log was full, and %s of it were for this optional target alone",
			text.Bytes(held))
	}
	return name, LetGo{Bytes: lacks, Reason: reason}
}

// watchOptional lets optional targets go, while this member leads.
func (t *targets) watchOptional() {
	for {
		changed := t.changed.Next()
		if t.lead.Leads() {
			if name, why := t.overdue(); name != "" {
				t.letGo(name, why)
			}
		}
		select {
		case <-t.ctx.Done():
			return
		case <-changed:
		}
	}
}

func (t *targets) letGo(name string, why LetGo) {
	why.Time = clock.Now().UTC()
	if lag, _ := t.entries.Behind(t.Target(name).Index); lag > 0 {
		why.Oldest = why.Time.Add(-lag)
	}
	if err := t.change(targetPut{LetGo: map[string]LetGo{name: why}}); err != nil {
		t.opts.Logger.Warn("an optional target is not let go yet", "target", name, "err", err)
		return
	}
	t.opts.Logger.Error("an optional target is let go: the journal keeps nothing more for it",
		"target", name, "reason", why.Reason, "hint", "it is filled from another target once it takes objects again")
	t.logs.wantRoom() // what it held back can go at once
}

// KeepFor has the entries from the floor on kept for a target that was let go.
func (t *targets) KeepFor(name string) error {
	return t.change(targetPut{Keep: []string{name}})
}

// change applies p to the targets that there are.
func (t *targets) change(p targetPut) error {
	p.Required = []string{}
	for name, at := range t.fsm.allTargets() {
		p.Targets = append(p.Targets, name)
		if at.Required {
			p.Required = append(p.Required, name)
		}
	}
	slices.Sort(p.Targets)
	slices.Sort(p.Required)
	_, err := t.proposer.apply(tagTarget, mustJSON(p))
	return err
}

// repeatLetGo says again who was let go, at the beginning of a lead: a member of an
// older build, which ignored it, may know it by now.
func (t *targets) repeatLetGo() error {
	again := map[string]LetGo{}
	for name, at := range t.fsm.allTargets() {
		if at.LetGo != nil && at.From == 0 && !at.Required {
			again[name] = *at.LetGo
		}
	}
	if _, members := t.members.count(); members < 2 || len(again) == 0 {
		return nil
	}
	return t.change(targetPut{LetGo: again})
}

// Sources names the targets that have every entry that is no longer held, the farthest
// first.
func (t *targets) Sources(but string) []string {
	all := t.fsm.allTargets()
	var out []string
	for name, at := range all {
		if name != but && at.LetGo == nil {
			out = append(out, name)
		}
	}
	slices.SortFunc(out, func(a, b string) int {
		return cmp.Or(cmp.Compare(all[b].Index, all[a].Index), cmp.Compare(a, b))
	})
	return out
}
