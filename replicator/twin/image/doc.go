// Package image writes a recovery point of a volume to a file or a block device: it looks at
// what is there and says what speaks against it, goes on from an interrupted write or an older
// image, and gives a file its name only when it is complete and durable. restore, clone and
// recover use it. It works from the object store alone.
package image
