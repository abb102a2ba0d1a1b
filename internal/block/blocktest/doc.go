// Package blocktest has an in-memory block.Device for tests: it keeps the
// visible and the durable state apart, so that a test can pull the plug, and
// lets a test make operations fail or block.
package blocktest
