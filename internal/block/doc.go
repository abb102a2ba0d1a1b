// Package block defines Device, the one interface between what holds blocks
// (a protected volume, a mount of the twin, a plain file) and the front ends
// that serve them (NBD first). File is the plain implementation, without any
// protection: the yardstick of the write benchmark.
package block
