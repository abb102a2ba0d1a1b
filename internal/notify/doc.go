// Package notify lets any number of goroutines wait for the next event of a
// kind. Agent and journal use it for progress.
package notify
