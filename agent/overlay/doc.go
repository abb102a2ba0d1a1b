// Package overlay is the index of a volume's bytes that are newer in memory (the
// arena) than on the backing.
//
// It guarantees that a read sees the newest inserted write of every byte, until
// that write is removed because the backing holds it. Its memory is bounded by
// the arena: there is an entry per 4 KiB block of each write that is held there, and
// one for each large zero.
// package agent is its only caller.
package overlay
