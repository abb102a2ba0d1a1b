package journal

import (
	"context"
	"fmt"
	"slices"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/notify"
)

// targets are the object logs that the journal keeps entries for, as this member's
// configuration names them and the FSM counts them.
type targets struct {
	opts     *Options
	ctx      context.Context // ends with the journal
	fsm      *fsm
	logs     *logStore
	entries  *entryReader
	lead     *lead
	members  *membership
	proposer *proposer
	changed  *notify.Notifier // after every applied batch
}

// Target returns how far a target has come.
func (t *targets) Target(name string) Target { return t.fsm.target(name) }

// TargetPoints returns where every stream stands in a target's object log.
func (t *targets) TargetPoints(name string) map[change.StreamID]change.Point {
	return t.fsm.targetPoints(name)
}

// Uploaded commits that a target has come so far.
func (t *targets) Uploaded(u Uploaded) error {
	tag := byte(tagLazy)
	if t.fsm.firstIndex() == 1 || !t.logs.single.Load() {
		tag = tagUploaded
	}
	_, err := t.proposer.apply(tag, mustJSON(u))
	return err
}

// targetSpec lists the targets, with what makes them required.
func targetSpec(all map[string]Target) []string {
	var out []string
	for name, at := range all {
		out = append(out, targetText(name, at.Required))
	}
	slices.Sort(out)
	return out
}

func targetText(name string, required bool) string {
	if required {
		return name
	}
	return name + " (optional)"
}

// set tells the journal of this member's targets. Where there are several
// members, what the journal has counts: another list is a mistake in a file, and
// nobody is told that something is durable on its word.
func (t *targets) set() error {
	_, members := t.members.count()
	have := targetSpec(t.fsm.allTargets())
	want := t.opts.targetSpec()
	if slices.Equal(have, want) {
		return nil
	}
	if members > 1 && len(have) > 0 {
		t.opts.Logger.Error("this member's configuration names other targets than the journal has; the journal's count",
			"journal", have, "configuration", want)
		return nil
	}
	required := t.opts.Required
	if required == nil {
		required = []string{}
	}
	_, err := t.proposer.apply(tagTarget, mustJSON(targetPut{Targets: t.opts.Targets, Required: required}))
	return err
}

// PointsBefore is where each stream stands just before a journal index that some target has
// reached at the most: nothing behind the target's end was given up here. Errors: fail.NotFound
// where the entries up to it are not here any more.
func (j *Journal) PointsBefore(index uint64) (map[change.StreamID]change.Point, error) {
	var best string
	var from uint64
	for name, t := range j.fsm.allTargets() {
		if t.Index < index && (best == "" || t.Index > from) {
			best, from = name, t.Index
		}
	}
	points := j.TargetPoints(best)
	if points == nil {
		return nil, fail.New(fail.NotFound, "read", "journal", fmt.Sprintf("no target ends before entry %d", index))
	}
	next := from + 1
	err := j.Entries(next, func(e Entry) bool {
		if e.Index != next || e.Index >= index {
			return false
		}
		if e.OfStream() {
			points[e.Stream] = change.Point{LSN: e.LastLSN, Hash: e.Hash}
		}
		next++
		return true
	})
	if err == nil && next < index {
		err = fail.New(fail.NotFound, "read", "journal", fmt.Sprintf("entry %d is not here any more", next))
	}
	return points, err
}
