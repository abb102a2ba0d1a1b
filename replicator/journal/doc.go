// Package journal puts the changes of many streams, and the commands that
// steer them, into one order with Raft.
//
// It guarantees that a frame is accepted only as the exact continuation of its
// stream, by LSN and hash, under the stream's current lease; that a repeat
// succeeds and changes nothing; that what is accepted is indexed until every
// target has it; and that Uploaded is committed before anyone is told. After a
// restart it stands where it stood.
//
// A journal is alone (embedded in an agent, whose WAL it may refer to) or has
// several members; then frames carry their bodies, and whoever leads serves.
//
// Layers: logstore.go (Raft's log on package wal), kv.go (Pebble: term and vote,
// FSM state, frame index), snapshot.go, fsm*.go (what a log entry does, and in
// fsm_query.go what others may ask of it), entries.go (what uploaders read), start.go and journal.go (opening, proposing, closing),
// member.go, cluster.go, network.go and leader.go (several members), listen.go
// (what a connection is for, and access.go who may), server.go (sessions with
// agents), follow.go (copies of the control state). Package journalnode runs one.
package journal
