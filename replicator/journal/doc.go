// Package journal puts the changes of many streams, and the commands that
// steer them, into one order with Raft.
//
// It guarantees that a frame is accepted only as the exact continuation of its
// stream, by LSN and hash, under the stream's current lease; that a repeat
// succeeds and changes nothing; that what is accepted is indexed until every
// target has it; and that Uploaded is committed before anyone is told. After a
// restart it stands where it stood.
//
// Layers: logstore.go (Raft's log on package wal), kv.go (Pebble: term and vote,
// FSM state, frame index), snapshot.go, fsm.go (what a log entry does), server.go
// (sessions with agents), journal.go (opening, proposing, closing). cmd wires it;
// the uploader drives it through Entries and Uploaded.
package journal
