// Package cli is what the subcommands of pollux share: the flags that name a daemon, a store or
// a point, how a verb opens a store and a log, and how it asks, shows progress and prints to a
// terminal.
package cli
