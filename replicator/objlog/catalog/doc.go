// Package catalog is the document that makes an object log readable from near its end:
// control state and, for every volume, the layers of its map, as of a position; and
// what history is kept before it. Catalogs are numbered; whoever creates a number owns
// it, and the one with the highest number counts.
//
// It guarantees that what it decodes is whole. Package twin reads catalogs, package gc
// makes them, and an uploader looks whether the newest one has passed it.
package catalog
