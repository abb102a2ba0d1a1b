// Package pack is the object that garbage collection moves live bytes into, out of
// objects of the log that hold little else: blocks, and where the bytes in them were
// before.
//
// It guarantees what frames do: a block's checksum is made up of those of its pieces,
// which together with what was left out made up the old block's. Package gc writes
// packs, package twin reads them.
package pack
