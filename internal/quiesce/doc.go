// Package quiesce runs an operator's hooks round a mark: one that makes an application
// stand still (fsfreeze, a database's backup mode), and one that lets it go on.
//
// It guarantees that the second hook runs whatever happens to the first, to the mark
// and to the process that wanted it: a guard, a process of its own, runs both, and
// lets go when it is told to, when its pipe breaks, when it is told to end, or when the
// limit is over, whichever comes first. The agent's daemon (control/node) is its caller, cmd its main.
package quiesce
