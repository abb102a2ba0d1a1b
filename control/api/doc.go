// Package api is the daemon's interface for operators: requests and answers
// as JSON over HTTP on a unix socket, one POST per verb.
//
// Handler serves any Service; Client calls it. Errors cross the wire with their
// kind and hint, so that a verb exits with the same code as if it had run in the
// daemon. docs/control.md lists the verbs. Packages node and member serve it, cmd calls it.
package api
