// Package catalogs has the leader of a journal make a catalog of each target's log now and
// then, so that opening a log that nobody collects stays quick. It never deletes, and it
// leaves a log alone for a time that pollux gc may be working on. The packages of the
// journal know nothing of it: it follows their status, and has a store of its own.
package catalogs
