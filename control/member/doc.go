// Package member is the process behind `pollux journal`: one member of a
// journal, with its uploaders, the address that agents and other members reach,
// control socket and metrics.
package member
