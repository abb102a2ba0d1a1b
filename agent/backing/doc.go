// Package backing is the file or device that holds a volume's blocks on the
// primary.
//
// It guarantees that zeroed and trimmed ranges read as zeros at once, whatever
// the device's discard does, and that Sync returns only when everything written
// before is on stable storage; what a failed Sync should have written has to be
// written again. An identity beside the blocks says whose
// backing a file is. Package agent is its caller, and writes here only what the WAL
// holds durably.
package backing
