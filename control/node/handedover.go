package node

import (
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/metafile"
	"github.com/pollux-dr/pollux/replicator/state"
)

// The report of a hand-over that was taken up stays in the state directory: who repeats the verb is
// told again, by the superseded seat and by the standby that the host becomes.

// handedOver is the record of it.
type handedOver struct {
	Version int                `json:"version"`
	Report  api.HandOverReport `json:"report"`
}

func handedOverPath(state string) string { return filepath.Join(state, "handed-over.json") }

// LoadHandedOver is the report of the last hand-over of a state directory's seat that was taken up; nil
// where there was none. Errors are metafile.Load's.
func LoadHandedOver(fs vfs.FS, state string) (*api.HandOverReport, error) {
	r := handedOver{}
	found, err := metafile.Load(fs, handedOverPath(state), "it only says how the last hand-over went: remove it", &r)
	if err != nil || !found {
		return nil, err
	}
	return &r.Report, nil
}

// noteReport writes it down. Without it the verb's repeat says less, and nothing else is lost.
func (d *Daemon) noteReport(r api.HandOverReport) {
	err := metafile.Save(d.hooks.fs, handedOverPath(d.conf.State), handedOver{metafile.Version, r})
	if err != nil {
		d.log.Warn("the report of the hand-over was not written down", "err", err)
	}
}

// reportLate writes down what is known of a hand-over whose verb was cut short.
func (d *Daemon) reportLate() {
	over := d.superseded.Load()
	var h *state.HandOver
	d.journal.View(func(s *state.State) { h = s.HandOver })
	if over == nil || h == nil || over.How != state.MovePlanned || over.Site != h.To {
		return
	}
	if there, err := LoadHandedOver(d.hooks.fs, d.conf.State); err == nil && there != nil && there.ID == h.ID.String() {
		return
	}
	d.noteReport(api.HandOverReport{ID: h.ID.String(), To: h.To, Host: h.Host, Target: h.Target, Epoch: h.From,
		Index: over.Branch - 1, LimitSeconds: h.LimitSeconds, Outcome: "taken up"})
}

// handedOverTo is the report of a hand-over to a site by which this seat ended; nil where it did not.
func (d *Daemon) handedOverTo(site string) *api.HandOverReport {
	over := d.superseded.Load()
	if over == nil || over.How == state.MoveForced {
		return nil
	}
	r, err := LoadHandedOver(d.hooks.fs, d.conf.State)
	if err != nil || r == nil || r.To != site || r.Epoch != over.Own || over.Site != "" && over.Site != site {
		return nil
	}
	return r
}
