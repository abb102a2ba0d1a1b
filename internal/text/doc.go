// Package text writes figures and tables for people. Verbs, demo and benchmarks
// use it.
package text
