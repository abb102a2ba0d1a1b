// Package uploader writes a journal's entries, in order, to one target's object
// log.
//
// It guarantees that the log holds the entries without gap or repeat, that only
// the contiguous prefix counts (Uploaded goes through Raft before anyone is
// told), and that two writers never both extend one log: each begins with a
// fence, and stops when it meets a higher one: one that it has read, since a refused
// create alone proves nothing. Any other fault, of the store, the log or the journal,
// delays it and shows in Status; it never gives up before its context ends.
//
// claim.go claims the log, feed.go feeds it, tail.go keeps what was created at a freed position
// from counting, catchup.go folds while it is behind, fill.go makes up from a sibling's log what
// the journal no longer holds; arrive.go brings a log in line that this journal has not written, and
// seed.go begins an empty one. Package journalnode runs one per target.
package uploader
