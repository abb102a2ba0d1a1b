// Package standby follows an object log and keeps volumes as warm local images, seconds behind.
//
// It guarantees that an image which it calls following is, once the batch that is being applied
// has ended, byte for byte what the volume was at a consistent recovery point of its stream:
// objects are taken in the order of positions under the rules of fences, every checksum and
// every link of the chain of hashes is checked before anything of an object is written, what
// lies between the beginning and the end of a resync is held back, and no position is ever
// skipped. Objects are staged on local disk, synced, before they are applied, and a durable
// cursor (docs/formats/standby.md) says which of them the images may hold: so a kill or a power
// cut costs nothing, and a consistent point is reached without the bucket.
//
// The steps of a batch, in this order: stage and sync the objects; note that they are being
// applied; write to the images; sync them; save the cursor behind the batch; drop what is staged.
//
// A volume has no image yet, or one that is not where its stream is (a copy that has not ended,
// a fence that went back behind it, positions that garbage collection freed meanwhile). Then it
// is brought there from the store beside the following: copied, or made good by the extents
// that differ. Package control/standby runs it as a daemon. It needs nothing but the bucket.
package standby
