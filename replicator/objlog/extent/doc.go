// Package extent tells where the bytes of a volume lie in an object log: extents of
// the volume and the compressed blocks that hold them, as segments' footers name them
// (Of), and as the objects below map/ keep them (MapBuilder writes, Layer reads), by
// leaf of 32 MiB.
//
// It guarantees that what it reads back is what was written, or an error, and that a
// leaf's extents are in order and do not overlap. It reads no data blocks, and keeps
// nothing on disk. Packages catalog and pack refer to it; package extentmap of the twin
// puts footers and layers together; twin and gc are its other callers.
package extent
