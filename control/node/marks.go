package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/state"
)

// Bookmarks of groups over several hosts: a mark in each stream while all of their
// writers are held. See state.Barrier.

const (
	// defaultHold is the longest that writers are held for a mark, and maxHold what
	// may be asked for: a device's I/O timeout is 30 s.
	defaultHold = 5 * time.Second
	maxHold     = 20 * time.Second
	// markAnswer is how long agents may take to answer once the limit of their holds is over.
	markAnswer = 5 * time.Second
)

// holdMarks takes this host's part in marks, until ctx ends.
func (d *Daemon) holdMarks(ctx context.Context) {
	seen := map[uuid.UUID]bool{}
	for {
		changed := d.journal.Changed()
		for id, m := range d.openMarks() {
			if !seen[m.ID] {
				seen[m.ID] = true
				d.wg.Go(func() { d.takePart(ctx, id, m) })
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// openMarks lists the marks that wait for this host, by its stream of the group. A mark that
// its beginner never ended is among them: this host's hold runs into its limit, which
// voids the mark.
func (d *Daemon) openMarks() map[change.StreamID]*state.Barrier {
	out := map[change.StreamID]*state.Barrier{}
	d.journal.View(func(s *state.State) {
		for _, m := range s.Barriers {
			if st := s.StreamOf(m.Group, d.conf.Name); m.Outcome == "" && st != nil {
				if p := m.Parts[st.ID]; p != nil && p.LSN == 0 {
					out[st.ID] = m
				}
			}
		}
	})
	return out
}

// maxWhy bounds the reason that the journal keeps of a mark that failed.
const maxWhy = 1000

// takePart holds a stream's writers until all others hold theirs, or the mark has
// failed.
func (d *Daemon) takePart(ctx context.Context, id change.StreamID, m *state.Barrier) {
	limit := min(time.Duration(m.LimitSeconds*1e9), maxHold)
	err := d.holdFor(ctx, id, m, limit)
	if err == nil || ctx.Err() != nil {
		return
	}
	d.log.Error("this host's part in a mark failed", "bookmark", m.Name, "group", m.Group, "err", err)
	step := state.MarkStep{ID: m.ID, Group: m.Group, Stream: id,
		Why: text.ShortLine("agent "+d.conf.Name+": "+err.Error(), maxWhy)}
	if _, err := d.journal.Propose(state.KindMarkVoid, step); err != nil && !fail.Is(err, fail.NotFound) {
		d.log.Warn("the mark could not be called void; its beginner will", "bookmark", m.Name, "group", m.Group,
			"err", err)
	}
}

func (d *Daemon) holdFor(ctx context.Context, id change.StreamID, m *state.Barrier, limit time.Duration) error {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	h, lsn, err := d.agent.Hold(limited, id, m.Name, limit)
	if err != nil {
		return err
	}
	defer h.Release()
	step := state.MarkStep{ID: m.ID, Group: m.Group, Stream: id, LSN: lsn}
	if _, err := d.journal.Propose(state.KindMarkHeld, step); err != nil {
		return err
	}
	now := m
	for now.Outcome == "" && !now.Held() {
		changed := d.journal.Changed()
		if now = d.markOf(m); now.Outcome != "" || now.Held() {
			break
		}
		select {
		case <-changed:
		case <-h.Over():
			return fail.New(fail.Retry, "hold", "group "+m.Group,
				fmt.Sprintf("the hold ended after %v; still missing: %s", limit,
					strings.Join(now.Missing(func(p *state.BarrierPart) bool { return p.LSN > 0 }), ", ")))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	held, whole := h.Release()
	switch {
	case now.Outcome != "":
		return nil // somebody else's failed
	case !whole:
		return fail.New(fail.Retry, "hold", "group "+m.Group,
			fmt.Sprintf("the hold ended after %v, before it was known that all others held", limit))
	}
	d.log.Info("writers were held for a mark", "bookmark", m.Name, "group", m.Group, "lsn", lsn, "held", held)
	if err := d.inJournal(ctx, id, lsn); err != nil {
		return err
	}
	step = state.MarkStep{ID: m.ID, Group: m.Group, Stream: id, HeldSeconds: held.Seconds()}
	_, err = d.journal.Propose(state.KindMarkConfirm, step)
	return err
}

// inJournal waits until the journal has a mark: what an overflow has dropped is no
// point.
func (d *Daemon) inJournal(ctx context.Context, id change.StreamID, lsn uint64) error {
	ctx, cancel := context.WithTimeout(ctx, markAnswer)
	defer cancel()
	if err := d.agent.WaitCommitted(ctx, id, lsn); err != nil {
		return err
	}
	var lost error
	d.journal.View(func(s *state.State) {
		if st := s.Streams[id]; st != nil {
			for _, g := range st.Gaps {
				if lsn > g.From.LSN && lsn <= g.To.LSN {
					lost = fail.New(fail.Retry, "hold", "group "+st.Group,
						"the WAL overflowed, and the mark went with it")
				}
			}
		}
	})
	if lost == nil {
		lost = d.agent.NoPoint(id)
	}
	return lost
}

// markOf is a mark as it stands now; one that is not there any more has failed.
func (d *Daemon) markOf(m *state.Barrier) (now *state.Barrier) {
	d.journal.View(func(s *state.State) { now = s.Barriers[m.Group] })
	if now == nil || now.ID != m.ID {
		return &state.Barrier{ID: m.ID, Outcome: "another mark took its place"}
	}
	return now
}

const minHold = 10 * time.Millisecond

func holdLimit(r *api.BookmarkAdd) time.Duration {
	if r.HoldSeconds == 0 {
		return defaultHold
	}
	return time.Duration(r.HoldSeconds * 1e9)
}

// checkHold refuses a limit that no agent would keep to.
func checkHold(r *api.BookmarkAdd) error {
	if !(r.HoldSeconds == 0 || r.HoldSeconds >= minHold.Seconds() && r.HoldSeconds <= maxHold.Seconds()) {
		return fail.New(fail.Invalid, "add bookmark", r.Group+"/"+r.Name,
			fmt.Sprintf("a hold limit of %g s", r.HoldSeconds)).
			WithHint(fmt.Sprintf("--hold-limit is %v to %v; without it, %v", minHold, maxHold, defaultHold))
	}
	return nil
}

// bookmarkAll adds a bookmark to a group with volumes on several hosts.
func (d service) bookmarkAll(ctx context.Context, r *api.BookmarkAdd) (api.Bookmark, error) {
	object, limit := r.Group+"/"+r.Name, holdLimit(r)
	ctx, cancel := context.WithTimeout(ctx, limit+markAnswer)
	defer cancel()
	_, epoch, _ := d.journal.ID()
	begin := state.MarkBegin{ID: uuid.New(), Name: r.Name, Group: r.Group, Time: clock.Now().UTC(),
		LimitSeconds: limit.Seconds(), Epoch: epoch}
	if _, err := d.journal.Propose(state.KindMarkBegin, begin); err != nil {
		return api.Bookmark{}, err
	}
	want := &state.Barrier{ID: begin.ID, Group: r.Group}
	for {
		changed := d.journal.Changed()
		m := d.markOf(want)
		if m.Outcome == state.MarkDone {
			break
		}
		if m.Outcome != "" {
			return api.Bookmark{}, fail.New(fail.Retry, "add bookmark", object, "the mark is void: "+m.Outcome).
				WithHint("nothing was added; `pollux status` on that host says more")
		}
		select {
		case <-changed:
			continue
		case <-ctx.Done():
		}
		missing := strings.Join(m.Missing(func(p *state.BarrierPart) bool { return p.Confirmed }), ", ")
		_, _ = d.journal.Propose(state.KindMarkVoid,
			state.MarkStep{ID: begin.ID, Group: r.Group, Why: "no word from " + missing}) // else it is stale soon
		if d.markOf(want).Outcome == state.MarkDone {
			break // in the last moment
		}
		return api.Bookmark{}, fail.New(fail.Retry, "add bookmark", object,
			fmt.Sprintf("no word within %v from agents %s", limit+markAnswer, missing)).
			WithHint("are these agents running, and do they reach the journal?")
	}
	var b state.Bookmark
	d.journal.View(func(s *state.State) {
		if p := s.Bookmarks[object]; p != nil {
			b = *p
		}
	})
	out := d.bookmark(&b)
	d.log.Info("bookmark added", "bookmark", r.Name, "group", r.Group, "hosts", len(out.Points),
		"held_seconds", out.HeldSeconds, "by", r.By)
	return out, nil
}

// pointsOf lists a bookmark's LSN on each host.
func pointsOf(s *state.State, b *state.Bookmark) (out []api.BookmarkPoint) {
	for id, lsn := range b.Points {
		agent := id.String()
		if st := s.Streams[id]; st != nil {
			agent = st.Agent
		}
		out = append(out, api.BookmarkPoint{Agent: agent, LSN: lsn})
	}
	slices.SortFunc(out, func(a, b api.BookmarkPoint) int { return strings.Compare(a.Agent, b.Agent) })
	return out
}

// severalHosts reports whether a group has volumes of other agents that could take part in
// a mark.
func (d *Daemon) severalHosts(group string) (others bool) {
	if d.journal.Alone() {
		return false // volumes of other agents were left by hosts that are gone
	}
	d.journal.View(func(s *state.State) {
		for _, v := range s.Volumes {
			others = others || v.Group == group && !v.Removed && v.Agent != d.conf.Name
		}
	})
	return others
}
