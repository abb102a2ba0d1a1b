// Package recovery rebuilds a lost agent's host, or one that lost its WAL, from a journal that
// runs elsewhere and its object store, so that the agent goes on with the same log. It changes
// nothing before the caller confirms, and fences the old host before it restores. `pollux
// recover` calls it.
package recovery
