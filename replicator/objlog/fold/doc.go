// Package fold makes one fold of a run of a stream's frames: what later writes of
// the run overwrote is left out, the rest is compressed harder.
//
// It guarantees that a fold leads from the point before the run to the point at
// its end and to the same bytes there, that nothing damaged goes in, and that the
// checksums made beside the write vouch for every byte of it: a block is cut into
// pieces only together with the proof that their checksums make up the block's.
// Points between are lost, so the caller cuts runs at those that must stay.
//
// uploader is its caller, when it is behind; gc checks what it moves with CombineCRC.
package fold
