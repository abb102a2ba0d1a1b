// Package journalnode runs one member of a journal on this host: the journal itself, and
// while it leads, an uploader for each target.
//
// It guarantees that uploaders run only under this member's lead and end with it,
// each under that lead's term. What ends an uploader for good (a fence, a damaged
// log) shows in Targets and does not end the journal: frames collect. Package
// control/node runs one in the agent's process, control/member one in a process of its own.
package journalnode
