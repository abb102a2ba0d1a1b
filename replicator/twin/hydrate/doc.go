// Package hydrate lets an image be used as a volume's backing while its blocks still come from
// the object store: after a failover at once, not after a restore. What is not here yet is
// fetched when it is read, or in part overwritten, and in the background; what is written
// lands in the file. When all is here, the image is a plain one.
//
// It guarantees that a read returns what was written last, else what the volume held at the
// point; that every byte from the store was checked; that what was written before a Sync that
// succeeded is never fetched again over it, and that nothing counts as here before it is
// durable, whatever a power cut leaves; and that a store which is away makes reads wait, and is
// no I/O error. What was written behind the last such Sync may be lost by a power cut, pages as
// a whole: whoever writes has to write it again, as the agent does from its WAL.
//
// The daemon of the agent (control/node) opens what a failover has made by Create.
package hydrate
