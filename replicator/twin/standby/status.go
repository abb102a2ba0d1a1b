package standby

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// The states of a volume, and of a group, which has the worst of its volumes'.
const (
	Following = "following" // its image is where the log is, but for what is on its way
	Behind    = "behind"    // it follows, and the log is further by more than a few seconds
	Waiting   = "waiting"   // there is no point of it to be copied yet
	Copying   = "copying"   // its image is being made, or made good
	Stalled   = "stalled"   // it cannot go on; the reason says why
)

// behindAfter is from which lag on, beside the delay, a volume counts as behind.
const behindAfter = 10 * time.Second

// VolumeStatus is where a volume's image is.
type VolumeStatus struct {
	Name    string    `json:"name"`
	Group   string    `json:"group"`
	Path    string    `json:"path"`
	Size    int64     `json:"size_bytes"`
	Ready   bool      `json:"ready"` // the log has it whole
	State   string    `json:"state"`
	Reason  string    `json:"reason,omitempty"`
	Percent float64   `json:"percent,omitempty"` // of the copy that is being made
	LSN     uint64    `json:"lsn"`               // the point that its image holds; 0: none yet
	Time    time.Time `json:"time,omitzero"`     // of that point, by the agent's clock
	// LagSeconds is how much older than the log's end, as last seen, that point is: by the
	// journal's clock, 0 where the image has all of the log. LagBytes is what is staged, and
	// not applied.
	LagSeconds float64 `json:"lag_seconds"`
	LagBytes   int64   `json:"lag_bytes"`
}

// GroupStatus sums up a group's volumes.
type GroupStatus struct {
	Name       string         `json:"name"`
	State      string         `json:"state"`
	LagSeconds float64        `json:"lag_seconds"`
	LagBytes   int64          `json:"lag_bytes"`
	Volumes    []VolumeStatus `json:"volumes"`
}

// Status is what a standby knows of itself.
type Status struct {
	Store    string `json:"store"`
	Journal  string `json:"journal,omitempty"`
	Epoch    uint64 `json:"epoch"`
	Position uint64 `json:"position"` // of the next object to be applied
	Staged   int64  `json:"staged_bytes"`
	// AsOf is when the log's end was last seen; zero: not yet. All lags are against it.
	AsOf time.Time `json:"as_of,omitzero"`
	// Brought and Applied are the bytes of data that were written to images since the start: by
	// copies and by what differed, and by following. Zeros, of trims say, do not count.
	Brought int64         `json:"brought_bytes"`
	Applied int64         `json:"applied_bytes"`
	Error   string        `json:"error,omitempty"` // why it cannot go on
	Groups  []GroupStatus `json:"groups"`
}

// shown is what Status returns, with a lock of its own: it answers while a batch is applied.
type shown struct {
	mu       sync.Mutex
	status   Status
	written  map[string]int64 // by volume: when the journal wrote its point, ns
	complete map[string]bool  // it has all that was taken of its stream
	end      time.Time        // when the end was last seen
	atEnd    bool             // nothing was read since
	waiting  int64            // bytes that are staged, and not applied, of all streams
	err      error
	reasons  map[string]error
	percent  map[string]float64
}

func (s *Standby) noteError(err error) {
	s.shown.mu.Lock()
	defer s.shown.mu.Unlock()
	if err != nil && (s.shown.err == nil || s.shown.err.Error() != err.Error()) {
		s.o.Logger.Warn("the standby cannot go on for now", "err", err, "hint", fail.HintOf(err))
	}
	s.shown.err = err
}

func (s *Standby) noteEnd(now time.Time) {
	s.shown.mu.Lock()
	defer s.shown.mu.Unlock()
	if !s.shown.atEnd {
		defer s.taken.Broadcast()
	}
	s.shown.end, s.shown.atEnd = now, true
}

// atEnd reports whether all was taken that was seen to be there, or is only not old enough.
func (s *Standby) atEnd() bool {
	s.shown.mu.Lock()
	defer s.shown.mu.Unlock()
	return s.shown.atEnd && (s.delay > 0 || s.shown.waiting == 0)
}

// noteMore says that an object of n bytes was staged, so that there may be more.
func (s *Standby) noteMore(n int) {
	s.shown.mu.Lock()
	defer s.shown.mu.Unlock()
	s.shown.atEnd = false
	s.shown.waiting += int64(n)
}

func (s *Standby) noteVolume(name string, err error) {
	s.shown.mu.Lock()
	defer s.shown.mu.Unlock()
	if s.shown.reasons == nil {
		s.shown.reasons = map[string]error{}
	}
	delete(s.shown.percent, name)
	if s.shown.reasons[name] = err; err == nil {
		delete(s.shown.reasons, name)
	}
}

func (s *Standby) progressOf(name string) twin.Progress {
	return func(done, total int64) {
		s.shown.mu.Lock()
		defer s.shown.mu.Unlock()
		if s.shown.percent == nil {
			s.shown.percent = map[string]float64{}
		}
		s.shown.percent[name] = 100 * float64(done) / float64(max(total, 1))
	}
}

// publish makes what the cursor says visible. Called with mu held, or before anybody else is
// there.
func (s *Standby) publish() {
	defer s.taken.Broadcast()
	s.shown.mu.Lock()
	defer s.shown.mu.Unlock()
	st := Status{Store: s.o.Store.URL(), Groups: []GroupStatus{}}
	written, complete := map[string]int64{}, map[string]bool{}
	if c := s.cur; c != nil {
		st.Journal, st.Epoch, st.Position = c.Journal.String(), c.Token.Epoch, c.Position
		st.Staged = s.stage.total()
		s.shown.waiting = s.stage.from(c.Position)
		byGroup := map[string]*GroupStatus{}
		for _, name := range slices.Sorted(maps.Keys(c.Volumes)) {
			v, sv, sc := c.Volumes[name], s.state.Volumes[name], c.stream(c.Volumes[name].Stream)
			out := VolumeStatus{Name: name, Path: v.Path, Size: v.Size, State: Copying,
				LSN: sc.Applied.LSN, Time: time.Unix(0, sc.Time), Ready: sv != nil && sv.Ready}
			switch {
			case sc.Broken != "":
				out.State, out.Reason = Stalled, sc.Broken
			case v.Following:
				out.State = Following
			case sv != nil && !sv.Ready:
				out.State, out.Reason = Waiting, "its initial sync is not complete"
			}
			if !v.Following { // it holds a point only where it is between two writes to it
				out.LSN, out.Time = 0, time.Time{}
			}
			if sv != nil {
				out.Group = sv.Group
			}
			written[name], complete[name] = sc.Written, v.Following && sc.Applied == sc.Tail
			for _, p := range sc.Held {
				out.LagBytes += s.stage.size(p.Position)
			}
			g := byGroup[out.Group]
			if g == nil {
				g = &GroupStatus{Name: out.Group}
				byGroup[out.Group] = g
			}
			g.Volumes = append(g.Volumes, out)
		}
		for _, name := range slices.Sorted(maps.Keys(byGroup)) {
			st.Groups = append(st.Groups, *byGroup[name])
		}
	}
	s.shown.status, s.shown.written, s.shown.complete = st, written, complete
}

// severity orders states.
var severity = map[string]int{Following: 0, Behind: 1, Waiting: 2, Copying: 3, Stalled: 4}

// Status says where the standby is. It never waits for the store or the disk.
func (s *Standby) Status() Status {
	h := &s.shown
	h.mu.Lock()
	defer h.mu.Unlock()
	out, now := h.status, s.o.Now()
	out.AsOf, out.Brought, out.Applied = h.end, s.brought.Load(), s.applied.Load()
	if h.err != nil {
		out.Error = fail.Explain(h.err)
	}
	out.Groups = make([]GroupStatus, 0, len(h.status.Groups))
	for _, g := range h.status.Groups {
		g.Volumes, g.State = slices.Clone(g.Volumes), Following
		for i := range g.Volumes {
			s.finish(&g.Volumes[i], now)
			v := &g.Volumes[i]
			if severity[v.State] > severity[g.State] {
				g.State = v.State
			}
			g.LagSeconds, g.LagBytes = max(g.LagSeconds, v.LagSeconds), max(g.LagBytes, v.LagBytes)
		}
		out.Groups = append(out.Groups, g)
	}
	return out
}

// finish fills in what changes without the cursor. Called with the lock of shown held.
func (s *Standby) finish(v *VolumeStatus, now time.Time) {
	h := &s.shown
	if err := h.reasons[v.Name]; err != nil && v.State != Following {
		if v.Reason = fail.Explain(err); !isNotYet(err) {
			v.State = Stalled
		} else if v.State == Copying {
			v.State = Waiting
		}
	}
	if p, ok := h.percent[v.Name]; ok && v.State == Copying {
		v.Percent = p
	}
	v.LagBytes += h.waiting
	caughtUp := h.complete[v.Name] && h.waiting == 0 && h.atEnd
	if !caughtUp && h.written[v.Name] > 0 {
		v.LagSeconds = max(0, now.Sub(time.Unix(0, h.written[v.Name])).Seconds())
	}
	if h.err != nil && v.State == Following {
		v.State, v.Reason = Stalled, cmp.Or(v.Reason, fail.Explain(h.err))
	}
	if v.State == Following && v.LagSeconds > (behindAfter+s.delay).Seconds() {
		v.State = Behind
	}
}
