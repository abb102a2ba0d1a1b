// Package twin reads an object log: what is in it (Log), which recovery points
// there are (Resolve), and the image of a volume at one of them (Restore). It
// needs nothing but the bucket.
//
// It guarantees that what it returns is what the primary held at that point:
// positions are taken in order under the rules of fences, the journal index has
// no gap, every checksum and every link of the chain of hashes is checked, and
// damage is an error that names object and offset. Packages image,
// mount and gc work on it, and the verbs that look into a store.
package twin
