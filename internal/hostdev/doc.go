// Package hostdev knows the files and devices of this host: at which paths an image
// may lie, and who uses what is there.
package hostdev
