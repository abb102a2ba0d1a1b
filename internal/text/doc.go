// Package text writes figures and tables for people. Verbs, demo and
// benchmarks use it, and whatever says in words how much or how old something is.
package text
