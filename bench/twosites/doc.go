// Package twosites runs sites on one machine, each a process of its own with its own directories and
// sockets, that share an object store at a third place; and writes to their volumes, knowing what it
// wrote. `pollux demo` and `pollux bench failover` are played with it.
//
// A Host starts as an agent or a standby, becomes the other by the verbs of an operator, and is lost
// by SIGKILL. A Model knows what a volume holds at every LSN, and forks where a journal went on at
// another site. A Volume keeps writing wherever it is served, and knows for how long it was not.
package twosites
