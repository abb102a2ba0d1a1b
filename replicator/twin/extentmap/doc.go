// Package extentmap works out what a volume holds at a point: Sorter sorts what the
// footers of segments say, Map puts that over the layers of a catalog, a leaf of 32 MiB
// at a time, and ByBlock puts the outcome in the order in which the log is best read.
// Sorter and ByBlock are in memory while they are small, and in a Pebble store of their
// own after that, so that memory does not grow with the volume.
//
// It guarantees that a Map's leaf holds each byte at most once, and the newest one. It
// reads no data blocks. Package twin, its mounts and gc are its callers.
package extentmap
