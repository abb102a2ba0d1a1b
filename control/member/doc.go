// Package member is the process behind `pollux journal`: one member of a
// journal, with its uploaders, the address that agents and other members reach,
// control socket and metrics. Members is also what the agent's process uses for a
// member that is embedded in it.
package member
