// Package doctor checks whether a host and an object store give what Pollux
// relies on. Each check is a function that returns one Result: what was found,
// and where it is not good, what to do.
//
// Checks of a store write only below a prefix of their own, and delete what they
// wrote where the credentials allow it. Checks of the host write one temporary
// file. cmd is the caller; it hands in the store (Store) and the settings (Host).
package doctor
