// Package status turns what a daemon knows into what it says: one Model, filled by the
// agent's daemon and by a journal member's alike, and pure functions from it to the
// answers of the control API. The metrics are made of those answers, so that they cannot
// disagree with them.
//
// The states of a group and which of them comes first are the list in state.go.
package status
