// Package systemtest drives the real pollux binary: processes that are killed,
// real S3 servers, filesystems and databases on top, and other people's tools
// as judges. It has no code of its own but its tests.
//
// Every test prints its seed; POLLUX_SEED repeats it. POLLUX_BINARY names a
// binary to be tested in place of one that is built from this checkout. The
// tests need root (loop devices, mounts) and the tools that they name when
// one is missing; nothing is ever skipped.
package systemtest
