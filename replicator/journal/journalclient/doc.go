// Package journalclient is a journal as a host sees it on which no member runs: a copy of
// the control state, kept up to date by whoever leads, and a way to propose
// commands.
//
// It guarantees that the copy is of one moment of the journal, never older than an
// answer to Propose, and that it connects again for ever. Without a connection the
// copy stays as it was and Propose is fail.Retry. Package
// control/node gives it to the agent's verbs in place of a journal of this process.
package journalclient
