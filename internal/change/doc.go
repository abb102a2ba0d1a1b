// Package change is the language that agents and journals speak: records,
// frames with their chain of hashes, and the messages that carry them.
//
// A frame is encoded once, by the agent (Encoder), and its bytes never change
// again: the agent's WAL entry, the network message, the Raft entry and the
// piece of a segment are the same bytes. Parse checks all of them: the header's
// own checksum, the digest over tables and blocks, and per block the checksum
// of the plain bytes that was made beside the write. Header.Follows checks the
// chain. The byte layout is in docs/formats/frame.md.
//
// The package is used by agent (which encodes), replicator (which checks,
// indexes and replays) and cmd (dump). It does no I/O.
package change
