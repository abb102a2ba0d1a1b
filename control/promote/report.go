package promote

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/replicator/state"
)

// The states of another target.
const (
	OtherLost      = "not asked" // it is at the lost site
	OtherUnreached = "not reached"
	OtherBehind    = "behind" // its log ends before the one that is taken
)

// Other is a target whose log is not taken.
type Other struct {
	Target string `json:"target"`
	Site   string `json:"site,omitempty"`
	State  string `json:"state"`
	Error  string `json:"error,omitempty"`
}

// Group is what becomes of one.
type Group struct {
	Name       string    `json:"name"`
	LSN        uint64    `json:"lsn"` // the point that it goes on from
	Time       time.Time `json:"time"`
	AgeSeconds float64   `json:"age_seconds"` // of the point, when it was shown; in the end when it was fenced
	HeadLSN    uint64    `json:"head_lsn"`    // where the log ends
	Note       string    `json:"note,omitempty"`
	Ack        string    `json:"ack"`
	AckWas     string    `json:"ack_was,omitempty"` // what it was, where that cannot be kept here
	// Unprotected: nothing outside this site holds what is written from now on.
	Unprotected bool `json:"unprotected"`
}

// Volume is one of them.
type Volume struct {
	Name    string `json:"name"`
	Group   string `json:"group"`
	Size    int64  `json:"size_bytes"`
	LSN     uint64 `json:"lsn"`
	Backing string `json:"backing"`
	Was     string `json:"was"` // at the backing's place, before
	// Hydrates: it is filled from the object store while it serves.
	Hydrates bool `json:"hydrates"`
	// Warm: its backing is the image of the standby here.
	Warm bool `json:"warm"`
}

// Report is what was taken over, or would be.
type Report struct {
	Journal   uuid.UUID `json:"journal"`
	Name      string    `json:"name"` // of the journal, as it is to be typed
	FromSite  string    `json:"from_site"`
	FromEpoch uint64    `json:"from_epoch"`
	Site      string    `json:"site"`
	Epoch     uint64    `json:"epoch"`
	Target    string    `json:"target"`
	Store     string    `json:"store"`
	Index     uint64    `json:"index"` // the last journal index of the log
	// LastSign is when the log was written to last, by the clock of the former seat.
	LastSign time.Time `json:"last_sign"`
	Agents   []string  `json:"agents"`
	Groups   []Group   `json:"groups"`
	Volumes  []Volume  `json:"volumes"`
	Skipped  []string  `json:"skipped,omitempty"` // volumes that were never complete in the store
	Others   []Other   `json:"others"`
	// RPOSeconds is the age of the oldest point that a group goes on from, when the log was fenced
	// (when it was shown, before that): at most so much is lost, if the clocks of both sites agree.
	RPOSeconds float64 `json:"rpo_seconds"`
	Seconds    float64 `json:"seconds"`
	// RTOSeconds is from the confirmed verb to where the volumes are served, by the daemon that
	// the standby has become; 0: an agent has yet to be started.
	RTOSeconds float64 `json:"rto_seconds,omitempty"`
	DryRun     bool    `json:"dry_run"`
	Resumed    bool    `json:"resumed,omitempty"` // an earlier run had begun it
	Done       bool    `json:"done,omitempty"`    // and had ended it: nothing was changed
}

// describe fills in what is known before anything is changed.
func (rep *Report) describe(r *run) {
	f := r.found
	l := f.log
	rep.Journal, rep.Name = l.Identity.Journal, api.JournalName(l.Identity.Journal)
	rep.FromSite, rep.FromEpoch = l.State.Seat.Site, max(l.Epoch, l.State.Seat.Epoch)
	rep.Epoch = rep.FromEpoch + 1
	if r.intent != nil {
		rep.FromSite, rep.Epoch = r.intent.FromSite, r.intent.Token.Epoch
		rep.FromEpoch = rep.Epoch - 1
	}
	rep.Target, rep.Store, rep.Index = f.target.Name, f.store.URL(), f.end.Index
	rep.Others, rep.Agents = f.others, r.agents()
	rep.LastSign = f.lastSign(context.Background())
}

// protectedElsewhere reports whether a target of the configuration outlives the loss of this site.
func (r *run) protectedElsewhere() bool {
	for _, t := range r.conf.Journal.Targets {
		if !t.Optional && t.Site != r.conf.Site && t.Name == r.found.target.Name {
			return true
		}
	}
	return false
}

// targetElsewhere reports whether another site has a target that its log can come to.
func (r *run) targetElsewhere() bool {
	return slices.ContainsFunc(r.conf.Journal.Targets, func(t config.Target) bool {
		return !t.Optional && t.Site != r.conf.Site
	})
}

// planned reports whether a hand-over is taken up.
func (r *run) planned() bool { return r.HandOver != nil || r.intent != nil && r.intent.HandOver != nil }

// ackHere is what a group's ack can be at a seat of one member, with what holds its writes. After a hand-over
// `remote` waits for a target that another site has: nothing says that it is lost, and a promise that was made
// for good does not end by a move. What is to happen where it cannot be kept, on_ack_loss says.
func (r *run) ackHere(g *state.Group) (ack, was string) {
	kept := r.protectedElsewhere() || r.planned() && r.targetElsewhere()
	lower := g.Ack == "journal" || g.Ack == "remote" && !kept
	if !lower || r.KeepAck {
		return g.Ack, ""
	}
	return "local", g.Ack
}

// groups describes those whose volumes go on from branches, at a time.
func (r *run) groups(points map[change.StreamID]branch, now time.Time) {
	r.rep.Groups, r.rep.RPOSeconds = nil, 0
	for _, st := range r.streams() {
		b := points[st.ID]
		r.rep.Groups = append(r.rep.Groups, r.group(r.found.log.State.Groups[st.Group], &b, now))
	}
}

// settle replaces what was found by where the log was fenced: a former seat that is not lost may have
// written until then.
func (r *run) settle() {
	r.groups(r.intent.Points, r.intent.Fence.At)
	r.rep.Index = r.intent.Fence.Next - 1
	for i := range r.rep.Volumes {
		v := &r.rep.Volumes[i]
		v.Hydrates, v.Warm = r.intent.Hydrates[v.Name], r.intent.Warm[v.Name]
		if x := r.found.log.State.Volumes[v.Name]; x != nil {
			v.LSN = r.intent.Points[x.Stream].LSN
		}
	}
}

// group describes one whose volumes go on from a branch.
func (r *run) group(g *state.Group, b *branch, now time.Time) Group {
	out := Group{Name: g.Name, LSN: b.LSN, Time: b.Time, HeadLSN: b.Head.LSN, Note: b.Note,
		Unprotected: !r.protectedElsewhere()}
	out.Ack, out.AckWas = r.ackHere(g)
	if !b.Time.IsZero() {
		out.AgeSeconds = max(0, now.Sub(b.Time).Seconds())
	}
	r.rep.RPOSeconds = max(r.rep.RPOSeconds, out.AgeSeconds)
	return out
}
