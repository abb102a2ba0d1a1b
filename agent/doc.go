// Package agent captures every write of the volumes on one storage host.
//
// The way of a write: a front end asks the Volume for memory (arena), reads the
// payload into it, and hands it back. Under one short lock the stream gives it
// an LSN, a place in the open frame and an entry in the volume's overlay; a
// plain write is acknowledged there (order.go). Frames are sealed by FLUSH, size or
// a short linger, encoded once (encode.go), appended to the WAL and synced
// (commit.go). Only what the WAL holds durably is applied to the backing (apply.go)
// and shipped to the journal (ship.go). checkpoint.go trims the WAL, recover.go puts
// all of it together again after a stop of any kind. stream.go says which part of a
// stream lies where, and what guards it.
//
// What the package guarantees: an acknowledged FLUSH outlives a power cut, an
// acknowledged write outlives the process, reads see every acknowledged write,
// the backing never holds a write that the WAL does not, and nothing is shipped
// that is not durable here.
//
// Package control/node wires it; replicator never sees it.
package agent
