package api

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/text"
)

// Group is a consistency group with its policy.
type Group struct {
	Name             string   `json:"name"`
	Ack              string   `json:"ack"`
	OnAckLoss        string   `json:"on_ack_loss"`
	Overflow         string   `json:"overflow"`
	PITR             string   `json:"pitr"`
	RPOTargetSeconds float64  `json:"rpo_target_seconds"`
	Paused           bool     `json:"paused"`
	Retention        string   `json:"retention"`        // as pollux group set takes it
	Owner            string   `json:"owner,omitempty"`  // the agent that created it
	Agents           []string `json:"agents,omitempty"` // that may have volumes in it beside its owner
	// Standbys are where the group is secondary.
	Standbys []Standby `json:"standbys"`
	Volumes  int       `json:"volumes"`
}

// Standby is an agent that follows a group, at a site.
type Standby struct {
	Site  string `json:"site"`
	Agent string `json:"agent"`
}

// GroupPut creates a group or changes settings of one; nil means unchanged or
// the default.
type GroupPut struct {
	Name             string   `json:"name"`
	Create           bool     `json:"create"`
	DryRun           bool     `json:"dry_run,omitempty"`
	By               string   `json:"by,omitempty"`
	Ack              *string  `json:"ack,omitempty"`
	OnAckLoss        *string  `json:"on_ack_loss,omitempty"`
	Overflow         *string  `json:"overflow,omitempty"`
	PITR             *string  `json:"pitr,omitempty"`
	Retention        *string  `json:"retention,omitempty"`
	RPOTargetSeconds *float64 `json:"rpo_target_seconds,omitempty"`
	Paused           *bool    `json:"paused,omitempty"`
	// Agents are those that may have volumes in the group beside its creator.
	Agents *[]string `json:"agents,omitempty"`
}

// GroupWait asks for a group's progress once its durable LSN is above AfterLSN,
// or TimeoutSeconds (30 where it is 0) are over.
type GroupWait struct {
	Group          string  `json:"group"`
	AfterLSN       uint64  `json:"after_lsn"`
	TimeoutSeconds float64 `json:"timeout_seconds,omitempty"`
}

// GroupProgress is how far a group's writes have come.
type GroupProgress struct {
	Group      string `json:"group"`
	LastLSN    uint64 `json:"last_lsn"`    // newest acknowledged write
	DurableLSN uint64 `json:"durable_lsn"` // in every remote target, with all before it
}

// Volume is a protected volume.
type Volume struct {
	Name      string `json:"name"`
	Group     string `json:"group"`
	Agent     string `json:"agent"`
	SizeBytes int64  `json:"size_bytes"`
	Backing   string `json:"backing"`
	NBD       string `json:"nbd"` // URI
	Ready     bool   `json:"ready"`
	// Hydration is there while the backing is filled from the object store.
	Hydration *Hydration `json:"hydration,omitempty"`
}

// State is Ready in words, and how far the hydration is.
func (v *Volume) State() string {
	if v.Hydration != nil {
		return fmt.Sprintf("%v, %d%% hydrated", v.Ready, v.Hydration.Percent)
	}
	return fmt.Sprint(v.Ready)
}

// Hydration is how far the backing of a volume is that serves while its blocks still come from
// the object store.
type Hydration struct {
	Volume        string `json:"volume"` // as the store has it
	LSN           uint64 `json:"lsn"`    // the point that it is filled with
	SizeBytes     int64  `json:"size_bytes"`
	HydratedBytes int64  `json:"hydrated_bytes"` // here: fetched, written or without data
	FetchedBytes  int64  `json:"fetched_bytes"`  // from the store since the agent's start
	LeftBytes     int64  `json:"left_bytes"`     // at most so much is to be fetched still
	// BytesPerSecond is what came from the store in the last seconds.
	BytesPerSecond int64  `json:"bytes_per_second"`
	Percent        int    `json:"percent"`
	Error          string `json:"error,omitempty"` // why it does not go on
}

// String says how far it is in one line.
func (h *Hydration) String() string {
	s := fmt.Sprintf("volume %s is served while it comes from the object store (LSN %d): %d%%, %s left, %s/s", h.Volume,
		h.LSN, h.Percent, text.Bytes(h.LeftBytes), text.Bytes(h.BytesPerSecond))
	if h.BytesPerSecond > 0 {
		left := time.Duration(float64(h.LeftBytes) / float64(h.BytesPerSecond) * 1e9)
		s += ", " + text.Duration(left) + " to go at most"
	}
	if h.Error != "" {
		s += "; it does not go on: " + h.Error
	}
	return s
}

// VolumeCreate asks for a new volume.
type VolumeCreate struct {
	Name      string `json:"name"`
	Group     string `json:"group"`
	SizeBytes int64  `json:"size_bytes"` // 0: that of an existing backing
	Backing   string `json:"backing"`    // "": a sparse file in the state directory
	DryRun    bool   `json:"dry_run,omitempty"`
	By        string `json:"by,omitempty"`
}

// VolumeAccept takes what is at the path of a suspended volume's backing for the
// right one, from the agent's next start on.
type VolumeAccept struct {
	Name   string `json:"name"`
	DryRun bool   `json:"dry_run,omitempty"`
	By     string `json:"by,omitempty"`
}

// VolumeRemove ends a volume's protection. Backing and history stay.
type VolumeRemove struct {
	Name   string `json:"name"`
	DryRun bool   `json:"dry_run,omitempty"`
	By     string `json:"by,omitempty"`
}

// VolumeChanged asks which extents of a volume were written after an LSN; without
// one, after the newest that every remote target holds.
type VolumeChanged struct {
	Name     string  `json:"name"`
	AfterLSN *uint64 `json:"after_lsn,omitempty"`
}

// VolumeChanges are those extents, rounded outward to granules.
type VolumeChanges struct {
	Name         string   `json:"name"`
	AfterLSN     uint64   `json:"after_lsn"`
	LastLSN      uint64   `json:"last_lsn"`
	GranuleBytes int64    `json:"granule_bytes"`
	Bytes        int64    `json:"bytes"`
	Extents      []Extent `json:"extents"`
}

// Extent is a range of a volume.
type Extent struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
}

// Bookmark is a named recovery point.
type Bookmark struct {
	Name  string    `json:"name"`
	Group string    `json:"group"`
	LSN   uint64    `json:"lsn"`
	Epoch uint64    `json:"epoch"`
	Time  time.Time `json:"time"`
	// Durable tells whether every remote target holds it; of a group over several
	// hosts, this host's part.
	Durable bool `json:"durable"`
	// Points are those of a group over several hosts, and HeldSeconds is how long the
	// writers of one of them waited at most.
	Points      []BookmarkPoint `json:"points,omitempty"`
	HeldSeconds float64         `json:"held_seconds,omitempty"`
	Quiesced    bool            `json:"quiesced,omitempty"` // application-consistent, by hooks
}

// BookmarkPoint is where a bookmark lies in one host's stream.
type BookmarkPoint struct {
	Agent string `json:"agent"`
	LSN   uint64 `json:"lsn"`
}

// BookmarkAdd asks for a bookmark at the present point of a group.
type BookmarkAdd struct {
	Name   string `json:"name"`
	Group  string `json:"group"`
	DryRun bool   `json:"dry_run,omitempty"`
	By     string `json:"by,omitempty"`
	// HoldSeconds is for how long writers may be held where the group is on several
	// hosts; 0 is the default.
	HoldSeconds float64 `json:"hold_seconds,omitempty"`
	// Quiesce runs the group's hooks round the mark.
	Quiesce bool `json:"quiesce,omitempty"`
}

// BookmarkRemove removes a bookmark.
type BookmarkRemove struct {
	Name   string `json:"name"`
	Group  string `json:"group"`
	DryRun bool   `json:"dry_run,omitempty"`
	By     string `json:"by,omitempty"`
}

// List asks for things, of one group where that is set.
type List struct {
	Group string `json:"group,omitempty"`
}

// Status is what `pollux status --json` prints.
type Status struct {
	Groups  []GroupStatus  `json:"groups"`
	Journal JournalStatus  `json:"journal"`
	Targets []TargetStatus `json:"targets"`
	Agent   AgentStatus    `json:"agent"`
	// Certificates are those that the daemon's configuration names.
	Certificates []CertificateStatus `json:"certificates,omitempty"`
	// Standby is of a standby's daemon, which has nothing of the above.
	Standby *StandbyStatus `json:"standby,omitempty"`
}

// CertificateStatus is until when a certificate holds.
type CertificateStatus struct {
	File    string    `json:"file"`
	Until   time.Time `json:"until,omitzero"`
	Warning string    `json:"warning,omitempty"` // 30 days before it expires, or it cannot be read
	Urgent  bool      `json:"urgent,omitempty"`  // 7 days before
}

// GroupStatus is where a group stands.
type GroupStatus struct {
	Name string `json:"name"`
	Role string `json:"role"`
	// Site is where it is primary, and Standbys are where it is secondary.
	Site             string    `json:"site"`
	Standbys         []Standby `json:"standbys"`
	State            string    `json:"state"`
	Reason           string    `json:"reason"`
	Ack              string    `json:"ack"`
	AckKept          string    `json:"ack_kept"` // the promise that holds for every flush that was answered
	AckReason        string    `json:"ack_reason,omitempty"`
	AckDegraded      bool      `json:"ack_degraded"`
	FlushesWaiting   int       `json:"flushes_waiting"` // for more than this host
	LagSeconds       float64   `json:"lag_seconds"`
	LagBytes         int64     `json:"lag_bytes"`
	RPOTargetSeconds float64   `json:"rpo_target_seconds"`
	// LastLSN and DurableLSN are of the answering agent's own stream, or of the only one that
	// the group has. Where there is neither they are null (see HasLSN): each stream has LSNs
	// of its own, which neither compare nor add up.
	LastLSN       uint64     `json:"last_lsn"`
	DurableLSN    uint64     `json:"durable_lsn"`
	LastPointTime *time.Time `json:"last_point_time"`
	BacklogBytes  int64      `json:"backlog_bytes"`
	// Streams are all of the group's, one for each agent that has had volumes in it, by agent.
	Streams []StreamStatus `json:"streams"`
	// InitialSync is there while one runs.
	InitialSync *InitialSync `json:"initial_sync,omitempty"`
}

// StreamStatus is how far one agent's part of a group has come.
type StreamStatus struct {
	Agent string `json:"agent"`
	// LastLSN is the newest acknowledged write where that agent answers, and the newest that
	// the journal has where a member of the journal does; null where neither is known here.
	LastLSN    *uint64 `json:"last_lsn"`
	DurableLSN *uint64 `json:"durable_lsn"` // in every remote target; null as LastLSN
}

// HasLSN reports whether LastLSN and DurableLSN say something.
func (g *GroupStatus) HasLSN() bool {
	return g.LastLSN > 0 || len(g.Streams) == 0 || len(g.Streams) == 1 && g.Streams[0].LastLSN != nil
}

// MarshalJSON writes null for LSNs that say nothing: two zeros would read as if all were
// durable.
func (g GroupStatus) MarshalJSON() ([]byte, error) {
	type fields GroupStatus
	out := struct {
		fields
		LastLSN    *uint64 `json:"last_lsn"`
		DurableLSN *uint64 `json:"durable_lsn"`
	}{fields: fields(g)}
	if g.HasLSN() {
		out.LastLSN, out.DurableLSN = &g.LastLSN, &g.DurableLSN
	}
	return json.Marshal(out)
}

// InitialSync is how far the initial syncs of a group's volumes are.
type InitialSync struct {
	Bytes       int64    `json:"bytes"` // that the backings hold
	CopiedBytes int64    `json:"copied_bytes"`
	Percent     int      `json:"percent"`
	LeftSeconds *float64 `json:"left_seconds"` // at the rate so far; null before there is one
}

// JournalStatus is where the journal stands.
type JournalStatus struct {
	ID             string `json:"id"`
	Leader         bool   `json:"leader"` // in this process
	LeaderAddress  string `json:"leader_address,omitempty"`
	Voters         int    `json:"voters"`
	Members        int    `json:"members"`
	Term           uint64 `json:"term"`
	Epoch          uint64 `json:"epoch"`
	Site           string `json:"site"` // of its seat
	FeatureLevel   int    `json:"feature_level"`
	LogBytes       int64  `json:"log_bytes"`
	LogBudgetBytes int64  `json:"log_budget_bytes"`
	Error          string `json:"error"`
	// WayBack is there while a hand-over to here is neither committed nor rolled back.
	WayBack *WayBack `json:"way_back,omitempty"`
	// Superseded is set where the journal has its seat elsewhere now.
	Superseded *change.Superseded `json:"superseded,omitempty"`
}

// TargetStatus is where a target's object log stands.
type TargetStatus struct {
	Name          string     `json:"name"`
	URL           string     `json:"url"`
	Site          string     `json:"site"`
	Position      uint64     `json:"position"`
	LastSuccess   *time.Time `json:"last_success"`
	Error         string     `json:"error"`
	State         string     `json:"state"`   // "let go" or "filling" (see docs/journal.md), else empty
	Reason        string     `json:"reason"`  // of the state
	Stopped       bool       `json:"stopped"` // for good, as the error says: nothing more is tried
	ShippedBytes  int64      `json:"shipped_bytes"`
	ShippedObject int64      `json:"shipped_objects"`
	Optional      bool       `json:"optional"`
	LagSeconds    float64    `json:"lag_seconds"` // age of the oldest frame that it lacks
	BacklogBytes  int64      `json:"backlog_bytes"`
	// FoldedFrom bytes of frames went as FoldedTo bytes of folds, since the start.
	FoldedFrom int64 `json:"folded_from_bytes"`
	FoldedTo   int64 `json:"folded_to_bytes"`
	// Catalog is what the journal's leader knows of the log's newest catalog; null is
	// nothing.
	Catalog *change.CatalogInfo `json:"catalog"`
}

// TargetStatusOf turns a journal's words about a target into status.
func TargetStatusOf(t *change.TargetInfo) TargetStatus {
	out := TargetStatus{Name: t.Name, URL: t.URL, Site: t.Site, Position: t.Position, Optional: t.Optional,
		ShippedBytes: t.Bytes, ShippedObject: t.Objects, Error: t.Error, State: t.State, Reason: reasonOf(t),
		Stopped: t.Stopped, LagSeconds: t.LagSeconds, BacklogBytes: t.BacklogBytes, FoldedFrom: t.FoldedFrom,
		FoldedTo: t.FoldedTo, Catalog: t.Catalog}
	if !t.LastSuccess.IsZero() {
		out.LastSuccess = &t.LastSuccess
	}
	return out
}

// reasonOf is why a target is not in line, and how far its filling is.
func reasonOf(t *change.TargetInfo) string {
	if t.Filled == "" {
		return t.Reason
	}
	return t.Filled + "; " + t.Reason
}

// AgentStatus are the host's own figures.
type AgentStatus struct {
	Name           string  `json:"name"`
	Version        string  `json:"version"`
	MemoryBytes    int64   `json:"memory_bytes"`
	MemoryBudget   int64   `json:"memory_budget_bytes"`
	WALBytes       int64   `json:"wal_bytes"`
	WALBudgetBytes int64   `json:"wal_budget_bytes"`
	WrittenBytes   int64   `json:"written_bytes"` // payload since the start
	StoredBytes    int64   `json:"stored_bytes"`  // its frames
	Connections    int     `json:"nbd_connections"`
	NewGeneration  bool    `json:"new_generation"` // this start found no arena
	UptimeSeconds  float64 `json:"uptime_seconds"`
	// Hydrating are the backings that are still being filled from the object store.
	Hydrating []Hydration `json:"hydrating,omitempty"`
}

// Service is what a daemon can do for operators.
type Service interface {
	Status(ctx context.Context, _ struct{}) (Status, error)
	GroupPut(ctx context.Context, r GroupPut) (Group, error)
	GroupList(ctx context.Context, r List) ([]Group, error)
	GroupWait(ctx context.Context, r GroupWait) (GroupProgress, error)
	VolumeCreate(ctx context.Context, r VolumeCreate) (Volume, error)
	VolumeList(ctx context.Context, r List) ([]Volume, error)
	VolumeRemove(ctx context.Context, r VolumeRemove) (Volume, error)
	VolumeAccept(ctx context.Context, r VolumeAccept) (Volume, error)
	VolumeChanged(ctx context.Context, r VolumeChanged) (VolumeChanges, error)
	BookmarkAdd(ctx context.Context, r BookmarkAdd) (Bookmark, error)
	BookmarkList(ctx context.Context, r List) ([]Bookmark, error)
	BookmarkRemove(ctx context.Context, r BookmarkRemove) (Bookmark, error)
	AuditList(ctx context.Context, r AuditQuery) ([]AuditEntry, error)
	HandOver(ctx context.Context, r HandOver) (HandOverReport, error)
	Commit(ctx context.Context, r Commit) (CommitReport, error)
	RollBack(ctx context.Context, r RollBack) (RollBackReport, error)
}

// AuditQuery asks for the newest entries; 0 for all that the journal has at hand.
type AuditQuery struct {
	Last int `json:"last,omitempty"`
}

// AuditEntry is one verb that was to change state.
type AuditEntry struct {
	Number  uint64          `json:"number"`
	Time    time.Time       `json:"time"`
	Who     string          `json:"who"`  // certificate, or the user on the host's own socket
	Host    string          `json:"host"` // whose daemon carried it out
	Verb    string          `json:"verb"`
	Request json.RawMessage `json:"request"`
	Outcome string          `json:"outcome"` // "ok", or why not
}
