package failback

import (
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/twin/branch"
)

// Group is what becomes of one.
type Group struct {
	Name     string    `json:"name"`
	PointLSN uint64    `json:"point_lsn"` // the branch point: the last that the journal has of this host
	BaseLSN  uint64    `json:"base_lsn"`  // the recovery point to which its volumes go back
	LastLSN  uint64    `json:"last_lsn"`  // the last that this host had
	From     time.Time `json:"from,omitzero"`
	To       time.Time `json:"to,omitzero"` // of what was written behind the branch point
	// Compare: what was written is not known, because of Why, and the volumes are compared.
	Compare bool   `json:"compare,omitempty"`
	Why     string `json:"why,omitempty"`
	// Rounded: a bitmap says what was written, so that it is rounded outward.
	Rounded bool `json:"rounded,omitempty"`
}

// Volume is one that goes back.
type Volume struct {
	Name    string `json:"name"`
	Group   string `json:"group"`
	Size    int64  `json:"size_bytes"`
	Backing string `json:"backing"`
	// DivergentBytes were written here behind the base; -1: that is not known before it is compared.
	DivergentBytes int64 `json:"divergent_bytes"`
	Extents        int64 `json:"extents"`
}

// Left is a volume that is left as it is, and not followed.
type Left struct {
	Volume string `json:"volume"`
	Why    string `json:"why"`
}

// Report is what went back, or would.
type Report struct {
	Journal   uuid.UUID        `json:"journal"`
	Name      string           `json:"name"` // of the journal, as it is to be typed
	Epoch     uint64           `json:"epoch"`
	Site      string           `json:"site"`
	Successor branch.Successor `json:"successor"`
	Branch    string           `json:"branch"` // its id
	Path      string           `json:"path"`   // where it is
	Groups    []Group          `json:"groups"`
	Volumes   []Volume         `json:"volumes"`
	Left      []Left           `json:"left,omitempty"`
	// DivergentBytes are what the branch has.
	DivergentBytes int64 `json:"divergent_bytes"`
	// PayloadBytes were put back, ReadBytes read from the store for it and for comparing.
	PayloadBytes  int64   `json:"payload_bytes"`
	ReadBytes     int64   `json:"read_bytes"`
	ComparedBytes int64   `json:"compared_bytes"`
	Seconds       float64 `json:"seconds"`
	DryRun        bool    `json:"dry_run"`
	Resumed       bool    `json:"resumed,omitempty"` // an earlier run had begun it
	Done          bool    `json:"done,omitempty"`    // and had ended it: nothing was changed
}

// describe fills in what is known before anything is changed.
func (rep *Report) describe(r *run) {
	rec := r.rec
	rep.Journal, rep.Name, rep.Epoch, rep.Site = rec.Journal, api.JournalName(rec.Journal), rec.Epoch, rec.Site
	rep.Successor, rep.Branch, rep.Path = rec.Successor, rec.ID, branch.PathOf(r.conf.State, rec.ID)
	beyond := map[change.StreamID]*agent.Beyond{}
	if idle, err := agent.ReadIdle(vfs.Default, r.agentDir()); err == nil {
		for i := range rec.Streams {
			if w, err := idle.Beyond(rec.Streams[i].ID, rec.Streams[i].Base); err == nil && !rec.Streams[i].Compare {
				beyond[rec.Streams[i].ID] = w
			}
		}
		_ = idle.Close()
	}
	for i := range rec.Streams {
		s := &rec.Streams[i]
		g := Group{Name: s.Group, PointLSN: s.Point.LSN, BaseLSN: s.Base.LSN, LastLSN: s.End.LSN, Compare: s.Compare,
			Why: s.Why}
		if w := beyond[s.ID]; w != nil {
			g.From, g.To, g.Rounded = w.From, w.To, w.Rounded
		}
		rep.Groups = append(rep.Groups, g)
	}
	for i := range rec.Volumes {
		v := &rec.Volumes[i]
		out := Volume{Name: v.Name, Group: v.Group, Size: v.SizeBytes, Backing: v.Backing, DivergentBytes: -1}
		if w := beyond[v.Stream]; w != nil {
			out.DivergentBytes, out.Extents = 0, int64(len(w.Extents[v.Number]))
			for _, e := range w.Extents[v.Number] {
				out.DivergentBytes += e.Len
			}
			rep.DivergentBytes += out.DivergentBytes
		}
		rep.Volumes = append(rep.Volumes, out)
	}
}

// finish replaces what was foreseen by what was done.
func (rep *Report) finish(r *run) error {
	rec := r.rec
	rep.PayloadBytes, rep.ReadBytes, rep.ComparedBytes = rec.PayloadBytes, rec.ReadBytes, rec.ComparedBytes
	b, err := branch.Load(r.conf.State, rec.ID)
	if err != nil {
		if rep.Done { // it was removed since
			return nil
		}
		return err
	}
	rep.DivergentBytes = 0
	for i := range rep.Volumes {
		v := &rep.Volumes[i]
		v.DivergentBytes, v.Extents = 0, 0
		for k := range b.Volumes {
			if b.Volumes[k].Name == v.Name {
				v.DivergentBytes, v.Extents = b.Volumes[k].Bytes, b.Volumes[k].Extents
			}
		}
		rep.DivergentBytes += v.DivergentBytes
	}
	for i := range b.Streams {
		if i < len(rep.Groups) {
			rep.Groups[i].LastLSN, rep.Groups[i].From, rep.Groups[i].To = b.Streams[i].End.LSN, b.Streams[i].From,
				b.Streams[i].To
		}
	}
	return nil
}
