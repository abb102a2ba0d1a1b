// Package arena holds the payloads of acknowledged writes, and the index that
// makes sense of them, in shared memory (a file on tmpfs).
//
// It guarantees that a write committed to it outlives the process: whoever opens
// the same file during the same boot finds every committed, not yet freed write
// with its stream, LSN and bytes (Recovered). A power cut empties it; that is
// what NBD's volatile cache means. Memory is bounded by the size given once.
//
// Payload memory comes in chunks of 64 KiB: small writes share the current
// chunk, large ones take whole chunks, chained. Each committed write has a slot
// of 64 bytes. package agent is its only caller.
package arena
