// Package state is a journal's control state (groups, streams, volumes,
// bookmarks, leases) and the commands that change it.
//
// It guarantees that the same commands in the same order give the same state,
// whether the journal's FSM applies them from Raft or a reader of the object log
// replays them from the bucket: both use State.Apply. The command envelope is in
// docs/formats/command.md. The package does no I/O.
package state
