// Package seed gives randomised tests a seed that is said and that can be given again.
//
// It guarantees that a test which failed can be run with the same choices: the seed is in
// its log, and POLLUX_SEED repeats it. Only tests call it.
package seed
