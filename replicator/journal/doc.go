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
// A Journal is put together of parts, each with what it needs of the others:
//
//	logstore.go, logcache.go   Raft's log on package wal
//	kv.go, snapshot.go         Pebble (term and vote, FSM state, frame index); Raft's snapshots
//	fsm*.go                    what a log entry does; fsm_query.go is all that others may ask
//	entries.go                 entryReader: what uploaders read
//	targets.go, let_go.go      targets: which object logs count, and what is kept for them
//	proposals.go               proposer: the way into Raft's log
//	lead.go, leader.go         lead: who leads, and under which term; how a lead begins
//	member.go                  member: who this directory is
//	cluster.go, join.go        membership: who the members are, and how one becomes one
//	network.go                 Raft's connections to other members
//	listen.go, access.go       server: what a connection is for, and who may open it
//	server.go, follow.go       its sessions with agents, and copies of the control state
//	ages.go, housekeeping.go   how old points are; snapshots, beats
//	start.go, journal.go       opening, wiring, closing
//
// Package journalnode runs one.
package journal
