package state

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/text"
)

// Barrier is a mark over several hosts, the newest of its group. Every agent holds
// its stream's writers, puts a mark into its order and says where (MarkHeld). Who
// learns that all of them hold, while it still does, confirms it and lets go. When
// all have confirmed, there was a moment in which all held, and the marks together
// are one point: the bookmark.
type Barrier struct {
	ID           uuid.UUID                        `json:"id"`
	Name         string                           `json:"name"`
	Group        string                           `json:"group"`
	Time         time.Time                        `json:"time"`
	LimitSeconds float64                          `json:"limit_seconds"` // of a hold
	Epoch        uint64                           `json:"epoch"`
	Parts        map[change.StreamID]*BarrierPart `json:"parts"`
	Outcome      string                           `json:"outcome,omitempty"` // "": not yet; MarkDone; or why it is void
}

// MarkDone is the outcome of a mark that became a bookmark.
const MarkDone = "done"

// BarrierPart is one stream's part.
type BarrierPart struct {
	Agent       string  `json:"agent"`
	LSN         uint64  `json:"lsn,omitempty"` // of its mark; 0: it does not hold yet
	Confirmed   bool    `json:"confirmed,omitempty"`
	HeldSeconds float64 `json:"held_seconds,omitempty"`
}

// Held reports whether all streams hold.
func (m *Barrier) Held() bool {
	return len(m.Missing(func(p *BarrierPart) bool { return p.LSN > 0 })) == 0
}

// Missing names the agents whose part does not have something yet.
func (m *Barrier) Missing(has func(*BarrierPart) bool) (agents []string) {
	for _, p := range m.Parts {
		if !has(p) {
			agents = append(agents, p.Agent)
		}
	}
	slices.Sort(agents)
	return agents
}

// MarkBegin begins a mark.
type MarkBegin struct {
	ID           uuid.UUID `json:"id"`
	Name         string    `json:"name"`
	Group        string    `json:"group"`
	Time         time.Time `json:"time"`
	LimitSeconds float64   `json:"limit_seconds"`
	Epoch        uint64    `json:"epoch"`
}

// MarkStep is one agent's word on a mark: it holds (LSN), it has seen all hold
// (HeldSeconds), or the mark is void (Why).
type MarkStep struct {
	ID          uuid.UUID       `json:"id"`
	Group       string          `json:"group"`
	Stream      change.StreamID `json:"stream"`
	LSN         uint64          `json:"lsn,omitempty"`
	HeldSeconds float64         `json:"held_seconds,omitempty"`
	Why         string          `json:"why,omitempty"`
}

// staleMark is how long after its limit a mark that nobody has ended gives way to
// the next, by the clocks of those who began them.
const staleMark = 30 * time.Second

// maxHoldSeconds bounds what a mark may ask for; agents bound it further.
const maxHoldSeconds = 3600

func (s *State) beginMark(r *MarkBegin) (string, error) {
	if err := CheckName("bookmark", r.Name); err != nil {
		return "", err
	}
	key := r.Group + "/" + r.Name
	if s.Groups[r.Group] == nil {
		return "", noSuch("group", r.Group)
	}
	if !(r.LimitSeconds > 0 && r.LimitSeconds <= maxHoldSeconds) {
		return "", fail.New(fail.Invalid, "add bookmark", key,
			fmt.Sprintf("writers held for up to %g s", r.LimitSeconds))
	}
	if s.Bookmarks[key] != nil {
		return "", fail.New(fail.Exists, "add bookmark", key, "it exists").WithHint("choose another name")
	}
	if err := s.bookmarkRoom(&Bookmark{Name: r.Name, Group: r.Group}); err != nil {
		return "", err // before writers are held for it
	}
	if old := s.Barriers[r.Group]; old != nil && old.Outcome == "" {
		if end := old.Time.Add(time.Duration(old.LimitSeconds*1e9) + staleMark); r.Time.Before(end) {
			return "", fail.New(fail.Retry, "add bookmark", key,
				"bookmark "+old.Name+" of the same group is being added").WithHint("try again in a moment")
		}
	}
	m := &Barrier{ID: r.ID, Name: r.Name, Group: r.Group, Time: r.Time, LimitSeconds: r.LimitSeconds, Epoch: r.Epoch,
		Parts: map[change.StreamID]*BarrierPart{}}
	for _, v := range s.Volumes {
		if st := s.Streams[v.Stream]; v.Group == r.Group && !v.Removed && st != nil {
			m.Parts[v.Stream] = &BarrierPart{Agent: st.Agent}
		}
	}
	if len(m.Parts) == 0 {
		return "", fail.New(fail.Refused, "add bookmark", key, "the group has no volume yet")
	}
	s.Barriers[r.Group] = m
	return "mark/" + r.Group, nil
}

// mark returns the mark in progress that a step is about. Parts are changed in a
// copy: readers may have the mark.
func (s *State) mark(r *MarkStep) (*Barrier, error) {
	m := s.Barriers[r.Group]
	if m == nil || m.ID != r.ID || m.Outcome != "" {
		return nil, fail.New(fail.NotFound, "mark", "group "+r.Group, "the mark has ended")
	}
	c := *m
	c.Parts = make(map[change.StreamID]*BarrierPart, len(m.Parts))
	for id, p := range m.Parts {
		q := *p
		c.Parts[id] = &q
	}
	return &c, nil
}

func (s *State) holdMark(r *MarkStep) (string, error) {
	m, err := s.mark(r)
	if err != nil {
		return "", err
	}
	p := m.Parts[r.Stream]
	if p == nil || p.LSN > 0 || r.LSN == 0 {
		return "", fail.New(fail.Refused, "mark", "group "+r.Group,
			fmt.Sprintf("stream %s is no part of it, or holds already", r.Stream))
	}
	if err := s.beforeHorizon("mark "+m.Name, r.Stream, r.LSN); err != nil {
		return "", err
	}
	p.LSN = r.LSN
	s.Barriers[r.Group] = m
	return "mark/" + r.Group, nil
}

func (s *State) voidMark(r *MarkStep) (string, error) {
	m, err := s.mark(r)
	if err != nil {
		return "", err
	}
	m.Outcome = cmp.Or(text.Line(r.Why), "void")
	s.Barriers[r.Group] = m
	return "mark/" + r.Group, nil
}

// confirmMark makes the bookmark of the mark when the last one confirms.
func (s *State) confirmMark(r *MarkStep) ([]string, error) {
	m, err := s.mark(r)
	if err != nil {
		return nil, err
	}
	p := m.Parts[r.Stream]
	if p == nil || p.Confirmed || !m.Held() {
		return nil, fail.New(fail.Refused, "confirm mark", "group "+r.Group, "not all hold, or it was confirmed before")
	}
	p.Confirmed, p.HeldSeconds = true, r.HeldSeconds
	s.Barriers[r.Group] = m
	keys := []string{"mark/" + r.Group}
	if len(m.Missing(func(p *BarrierPart) bool { return p.Confirmed })) > 0 {
		return keys, nil
	}
	b := &Bookmark{Name: m.Name, Group: m.Group, Epoch: m.Epoch, Time: m.Time, Points: map[change.StreamID]uint64{}}
	for id, p := range m.Parts {
		b.Points[id] = p.LSN
		b.HeldSeconds = max(b.HeldSeconds, p.HeldSeconds)
		if b.Stream == uuid.Nil || slices.Compare(id[:], b.Stream[:]) < 0 {
			b.Stream, b.LSN = id, p.LSN
		}
	}
	m.Outcome = MarkDone
	key := m.Group + "/" + m.Name
	s.Bookmarks[key] = b
	return append(keys, "bookmark/"+key), nil
}

// On returns the bookmark's LSN in a stream; ok is false where it has none.
func (b *Bookmark) On(id change.StreamID) (lsn uint64, ok bool) {
	if b.Points != nil {
		lsn, ok = b.Points[id]
		return lsn, ok
	}
	return b.LSN, b.Stream == id
}
