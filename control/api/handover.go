package api

// HandOver asks the seat of a journal to hand it over to another site.
type HandOver struct {
	To string `json:"to"` // site
	// LimitSeconds is for how long I/O may wait, all in all, before it is taken back: 30 where it
	// is 0. WaitSeconds is how long the other site's standby has to answer before: 30.
	LimitSeconds float64 `json:"limit_seconds,omitempty"`
	WaitSeconds  float64 `json:"wait_seconds,omitempty"`
	DryRun       bool    `json:"dry_run,omitempty"`
	By           string  `json:"by,omitempty"`
}

// HandOverReport is how a hand-over went.
type HandOverReport struct {
	ID           string  `json:"id"`
	To           string  `json:"to"`     // site
	Host         string  `json:"host"`   // that took it up
	Target       string  `json:"target"` // whose log decided
	Epoch        uint64  `json:"epoch"`  // that ended
	Index        uint64  `json:"index"`  // journal index of its last entry
	LimitSeconds float64 `json:"limit_seconds"`
	HeldSeconds  float64 `json:"held_seconds"` // for which I/O waited here
	Outcome      string  `json:"outcome"`
}
