package api

import (
	"context"
	"encoding/json"
	"time"
)

// StandbyStatus is where a standby is. Every lag is against the log's end as it was seen at AsOf.
type StandbyStatus struct {
	Name          string    `json:"name"`
	Site          string    `json:"site"`
	Version       string    `json:"version"`
	UptimeSeconds float64   `json:"uptime_seconds"`
	Target        string    `json:"target"`
	URL           string    `json:"url"`
	Journal       string    `json:"journal,omitempty"` // "" before the log was opened for the first time
	Epoch         uint64    `json:"epoch"`
	Parks         bool      `json:"parks,omitempty"` // clients can be attached already: their I/O waits
	Position      uint64    `json:"position"`        // of the next object to be applied
	StagedBytes   int64     `json:"staged_bytes"`    // on local disk
	DelaySeconds  float64   `json:"delay_seconds"`   // how old what is applied has to be
	AsOf          time.Time `json:"as_of,omitzero"`  // zero: the end was not seen since the start
	// BroughtBytes and AppliedBytes of data were written to images since the start: by copies and by
	// what differed, and by following.
	BroughtBytes int64 `json:"brought_bytes"`
	AppliedBytes int64 `json:"applied_bytes"`
	// Promoting: a failover makes it the agent, or has begun to.
	Promoting bool           `json:"promoting,omitempty"`
	Error     string         `json:"error,omitempty"` // why it does not go on
	Groups    []StandbyGroup `json:"groups"`
}

// StandbyGroup sums up the images of a group's volumes.
type StandbyGroup struct {
	Name       string          `json:"name"`
	State      string          `json:"state"` // the worst of its volumes'
	LagSeconds float64         `json:"lag_seconds"`
	LagBytes   int64           `json:"lag_bytes"`
	Volumes    []StandbyVolume `json:"volumes"`
}

// StandbyVolume is where the image of a volume is.
type StandbyVolume struct {
	Name       string    `json:"name"`
	Path       string    `json:"path"`
	State      string    `json:"state"` // following, behind, copying, waiting or stalled
	Reason     string    `json:"reason,omitempty"`
	Percent    float64   `json:"percent,omitempty"` // of a copy
	LSN        uint64    `json:"lsn"`               // of the point that it holds; 0: none yet
	Time       time.Time `json:"time,omitzero"`     // of that point
	LagSeconds float64   `json:"lag_seconds"`
	LagBytes   int64     `json:"lag_bytes"`
	Parked     int       `json:"parked_clients,omitempty"` // that are attached, and wait
}

// Failover asks a standby to take the journal over at its site, without the former seat. What is
// not said is as for `pollux failover --force` on a host without a standby.
type Failover struct {
	Target   string            `json:"target,omitempty"`
	At       string            `json:"at,omitempty"`
	Agents   []string          `json:"agents,omitempty"`
	Backings map[string]string `json:"backings,omitempty"`
	KeepAck  bool              `json:"keep_ack,omitempty"`
	// WaitForData restores volumes of which there is no image wholly before they are served.
	WaitForData bool `json:"wait_for_data,omitempty"`
	Overwrite   bool `json:"overwrite,omitempty"`
	// PatienceSeconds is how long a store that does not answer is tried.
	PatienceSeconds float64 `json:"patience_seconds,omitempty"`
	By              string  `json:"by,omitempty"` // who asks, for the audit
	DryRun          bool    `json:"dry_run"`      // say what would be done
	// Journal and Epoch are those of the dry run that was confirmed: it is refused where it would
	// be about anything else by now.
	Journal string `json:"journal,omitempty"`
	Epoch   uint64 `json:"epoch,omitempty"`
}

// StandbyService is what the daemon of a standby can do for operators.
type StandbyService interface {
	Status(ctx context.Context, _ struct{}) (Status, error)
	// Failover returns a promote.Report, as JSON. By then an agent has taken the standby's place
	// in the process, unless it was a dry run.
	Failover(ctx context.Context, r Failover) (json.RawMessage, error)
	// HandOver, Commit and RollBack are the seat's. A standby whose host has handed the journal over says
	// so once more; otherwise it says where to ask.
	HandOver(ctx context.Context, r HandOver) (HandOverReport, error)
	Commit(ctx context.Context, r Commit) (CommitReport, error)
	RollBack(ctx context.Context, r RollBack) (RollBackReport, error)
}

// StandbyHandler serves a standby.
func StandbyHandler(s StandbyService, audit Audit) *Mux {
	m := newMux(audit)
	query(m, VerbStatus, s.Status)
	mutate(m, VerbFailover, s.Failover)
	mutate(m, VerbHandOver, s.HandOver)
	mutate(m, VerbCommit, s.Commit)
	mutate(m, VerbRollBack, s.RollBack)
	return m
}
