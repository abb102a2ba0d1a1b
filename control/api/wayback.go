package api

import "time"

// Commit gives up the way back of the hand-over that the asked seat has taken up.
type Commit struct {
	DryRun bool   `json:"dry_run,omitempty"`
	By     string `json:"by,omitempty"`
}

// CommitReport is what was given up.
type CommitReport struct {
	// Outcome is "committed", "nothing to commit", where it was before or there was no hand-over, or
	// "dry run".
	Outcome  string    `json:"outcome"`
	Epoch    uint64    `json:"epoch,omitempty"` // that the hand-over began
	To       string    `json:"to,omitempty"`    // site that had the seat before
	Host     string    `json:"host,omitempty"`
	Bookmark string    `json:"bookmark,omitempty"` // of each group, that is gone
	Who      string    `json:"who,omitempty"`
	Time     time.Time `json:"time,omitzero"`
	// AnswersDeleted and AnswersLeft count the answers to hand-overs beside the logs; gc deletes those
	// that are left.
	AnswersDeleted int `json:"answers_deleted"`
	AnswersLeft    int `json:"answers_left"`
}

// RollBack hands the journal back to the site that had it, at the point of the hand-over. Journal and
// Epoch are those that a dry run has found.
type RollBack struct {
	LimitSeconds float64 `json:"limit_seconds,omitempty"` // as of HandOver
	WaitSeconds  float64 `json:"wait_seconds,omitempty"`
	DryRun       bool    `json:"dry_run,omitempty"`
	Journal      string  `json:"journal,omitempty"`
	Epoch        uint64  `json:"epoch,omitempty"`
	By           string  `json:"by,omitempty"`
}

// RollBackReport is what was undone, or would be, and how the hand-over went.
type RollBackReport struct {
	HandOverReport
	Journal  string    `json:"journal"` // its name, as it is to be typed
	Since    time.Time `json:"since"`   // when the hand-over was taken up
	Bookmark string    `json:"bookmark"`
	// Keeps is the bookmark that keeps what was last, in each group of which something is undone.
	Keeps  string   `json:"keeps"`
	Groups []Undone `json:"groups"`
}

// Undone is what a rollback takes back of a group.
type Undone struct {
	Group   string `json:"group"`
	LSN     uint64 `json:"lsn"`      // of the point
	LastLSN uint64 `json:"last_lsn"` // of the newest write
	Writes  uint64 `json:"writes"`
	// Bytes of volumes that were written since, as far as the log has it; -1: it is not known.
	Bytes int64     `json:"bytes"`
	Last  time.Time `json:"last,omitzero"` // of the newest write that the log has
}

// WayBack is a hand-over that is neither committed nor rolled back.
type WayBack struct {
	Site     string           `json:"site"` // that had the seat
	Host     string           `json:"host"`
	Epoch    uint64           `json:"epoch"` // that the hand-over began
	Since    time.Time        `json:"since"`
	Bookmark string           `json:"bookmark"`
	Groups   []WayBackOfGroup `json:"groups"`
}

// WayBackOfGroup is the point of a group, and how many writes came since.
type WayBackOfGroup struct {
	Group  string `json:"group"`
	LSN    uint64 `json:"lsn"`
	Writes uint64 `json:"writes"`
}
