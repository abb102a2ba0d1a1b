// Package uploader writes a journal's entries, in order, to one target's object
// log.
//
// It guarantees that the log holds the entries without gap or repeat, that only
// the contiguous prefix counts (Uploaded goes through Raft before anyone is
// told), and that two writers never both extend one log: each begins with a
// fence, and stops when it meets a higher one. A fault of the store delays it and
// shows in Status; it never gives up before its context ends.
//
// log.go claims the log, upload.go feeds it. cmd runs one per target.
package uploader
