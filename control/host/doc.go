// Package host is one process of a host that has volumes of a journal: an agent while the seat is
// here, a standby since this host handed it over, and the agent again once the journal comes back. It
// changes in place, and what it is at its next start is what the state directory says.
//
// It guarantees that a former seat becomes a standby by itself only where it handed the journal over
// and has nothing that the journal's log does not have, which is proved by the log; whoever was taken
// over by force, or has more, stays what it is, and waits for pollux failback.
package host
