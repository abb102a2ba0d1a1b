package api

// The states of a group, in GroupStatus.State.
const (
	Initializing = "Initializing" // a volume's initial sync has not ended
	Replicating  = "Replicating"
	Lagging      = "Lagging" // above the RPO target, or a stronger ack was given up for now
	Throttled    = "Throttled"
	Paused       = "Paused"
	Resyncing    = "Resyncing" // a WAL overflowed: there is no new point until what changed is copied
	Suspended    = "Suspended"
	Fenced       = "Fenced"
	Unprotected  = "Unprotected" // no required target is outside the seat's site
	Faulted      = "Faulted"
	FailingOver  = "FailingOver" // handed over, and not taken up yet: all I/O waits
	Superseded   = "Superseded"  // the journal went on elsewhere, under a higher epoch: nothing is served here
)
