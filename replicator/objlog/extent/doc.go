// Package extent tells where the bytes of a volume lie in an object log: extents of
// the volume and the compressed blocks that hold them. It sorts what the footers of
// segments say (Sorter, on disk, so that memory does not grow with the volume),
// keeps the outcome in objects (Layer), and puts both together to what a volume holds
// at a point (Map), a leaf of 32 MiB at a time.
//
// It guarantees that a Map's leaf holds each byte at most once, and the newest one.
// It reads no data blocks. Package catalog, twin and gc are its callers.
package extent
