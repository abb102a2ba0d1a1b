// Package segment is the format of the objects in an object log: segments with
// frames and commands, fences, and the identity at position 0.
//
// All three are one container: head, entries (grouped by stream, so that a
// volume's bytes lie together), footer with an index of the entries in journal
// order, trailer. A range read of the tail is enough to know everything but the
// bytes themselves. Every byte is covered by a checksum; errors name the offset.
// Byte layout: docs/formats/segment.md. Used by the uploader, which builds, and
// the twin and dump, which read. No I/O.
package segment
