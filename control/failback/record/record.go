// Package record is what a state directory says of a failback: what is being done, how far it is, and
// where the images are that a standby follows from then on. Daemons ask it before they start.
package record

import (
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/metafile"
	"github.com/pollux-dr/pollux/replicator/twin/branch"
)

// Record is the intent of a failback, durable before its first step. A repeat takes from it what was
// decided.
type Record struct {
	Version int       `json:"version"`
	ID      string    `json:"id"` // of the branch
	Began   time.Time `json:"began"`
	Journal uuid.UUID `json:"journal"`
	Epoch   uint64    `json:"epoch"` // of the former seat here
	Site    string    `json:"site"`
	Agent   string    `json:"agent"`
	// Successor is where the journal went on.
	Successor branch.Successor `json:"successor"`
	Streams   []Stream         `json:"streams"`
	Volumes   []Volume         `json:"volumes"`
	// The steps that are done, each before the next one begins.
	Settled bool `json:"settled,omitempty"` // the backings have all that was acknowledged here
	Saved   bool `json:"saved,omitempty"`   // the branch is durable
	Adopted bool `json:"adopted,omitempty"` // the standby's state is there
	// HandedOver: this host handed its journal over, and had nothing that the log does not have.
	HandedOver bool `json:"handed_over,omitempty"`
	// Done is when the former agent's state was put aside.
	Done time.Time `json:"done,omitzero"`
	// What it took, for the report.
	PayloadBytes  int64 `json:"payload_bytes"`
	ReadBytes     int64 `json:"read_bytes"`
	ComparedBytes int64 `json:"compared_bytes"`
}

// Stream is one that goes back.
type Stream struct {
	ID    change.StreamID `json:"id"`
	Group string          `json:"group"`
	Point change.Point    `json:"point"` // the branch point
	Base  change.Point    `json:"base"`  // the recovery point to which its images go back
	End   change.Point    `json:"end"`   // what was here last
	// Compare: what was written behind the base is not known, so the volumes are compared with it.
	Compare bool   `json:"compare,omitempty"`
	Why     string `json:"why,omitempty"`
}

// Volume is one that goes back.
type Volume struct {
	Name      string          `json:"name"`
	Number    uint32          `json:"number"`
	Group     string          `json:"group"`
	Stream    change.StreamID `json:"stream"`
	SizeBytes int64           `json:"size_bytes"`
	Backing   string          `json:"backing"`
	Mark      string          `json:"mark,omitempty"` // that the backing bears
	// Back: the backing holds the base.
	Back bool `json:"back,omitempty"`
}

// Path is where a state directory records a failback.
func Path(state string) string { return filepath.Join(state, "failback.json") }

// Save writes a record, durably.
func (r *Record) Save(state string) error {
	r.Version = metafile.Version
	return metafile.Save(vfs.Default, Path(state), r)
}

// Load reads a state directory's record; nil where there is none.
func Load(state string) (*Record, error) {
	r := &Record{}
	found, err := metafile.Load(vfs.Default, Path(state), "the record of a failback is damaged: nothing was deleted, "+
		"the branch is below "+branch.Dir(state), r)
	if err != nil || !found {
		return nil, err
	}
	if r.ID == "" || r.Journal == uuid.Nil {
		return nil, fail.New(fail.Damaged, "load", Path(state), "it names no branch or journal")
	}
	return r, nil
}

// Pending refuses to run over a failback that was cut short: the backings are of two histories.
func Pending(state string) error {
	r, err := Load(state)
	if err != nil || r == nil || !r.Done.IsZero() {
		return err
	}
	return fail.New(fail.Refused, "start in", state, "the failback that "+Path(state)+" records was cut short").
		WithHint("repeat it: pollux failback -c with this configuration")
}

// NoAgent refuses to start an agent over a failback that is not done, and in a state directory that
// is a standby's since one: a new agent there would begin a journal of its own.
func NoAgent(state string) error {
	if err := Pending(state); err != nil {
		return err
	}
	r, err := Load(state)
	if err != nil || r == nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(state, "agent", "agent.json")); err == nil {
		return nil // it was promoted since then
	}
	return fail.New(fail.Refused, "start in", state, "this host is a standby of journal "+api.JournalName(r.Journal)+
		" since a failback").WithHint("run pollux standby -c with this configuration; to have the seat here again, " +
		"hand it over, or take it with pollux failover")
}

// Places is a configuration in which each volume that went back here is followed where it is, and the
// log that was read for that, unless the settings name others.
func Places(c *config.Agent) (*config.Agent, error) {
	r, err := Load(c.State)
	if err != nil || r == nil {
		return c, err
	}
	out := *c
	out.Standby.Backings = map[string]string{}
	for i := range r.Volumes {
		out.Standby.Backings[r.Volumes[i].Name] = r.Volumes[i].Backing
	}
	maps.Copy(out.Standby.Backings, c.Standby.Backings)
	if out.Standby.Target == "" && len(c.Journal.Targets) > 1 {
		out.Standby.Target = r.Successor.Target
	}
	return &out, nil
}
