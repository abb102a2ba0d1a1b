// Package wal is a segmented, append-only log of opaque entries, numbered from
// 1 without gaps. The agent keeps its change frames in one, and each voter of a
// journal keeps Raft's log in one (through an adapter that lives elsewhere).
//
// What it guarantees, whatever process or power fails when:
//
//   - An entry whose Sync returned nil is there, byte for byte, at every later
//     Open, until TruncateFront, TruncateBack or Reset drops it.
//   - An entry dropped by TruncateBack or Reset never comes back once that call
//     has returned.
//   - What was appended but not synced survives as a prefix or not at all; a torn
//     tail, once Open has passed over it, is unreachable for good.
//   - Every byte read back is checked. Damage is a fail.Damaged error that names
//     file and byte offset, never wrong data and never silent truncation. The one
//     thing that cannot be told from a torn write is damage to the batches of the
//     last Sync before a crash; after a clean Close only the closing mark is.
//   - A failed write or fsync poisons the log: nothing is acknowledged any more
//     until it is opened anew and has re-read, and rewritten, what is there.
//
// Entries are written in batches, one pwrite each, aligned to and padded to
// 4 KiB, into files that were written before (recycled, or zeroed in the
// background), because an append that changes a file's size or part of a page
// costs a multiple. One fdatasync serves every goroutine that waits for it, and
// runs in the goroutine of the first of them.
//
// All file access goes through a [vfs.FS], so tests cut the power at every step.
// The byte format is described in docs/formats/wal.md and above the codecs in
// codec.go.
//
// A Log's methods may be called by any number of goroutines; a Reader belongs to
// one.
package wal
