// Package clock is the wall clock of everything that writes times down for people:
// frames, objects, commands, lag. Nothing else may depend on it: durations are
// measured by time.Since, or by SinceStart, which no change of the clock touches.
//
// The binary that the chaos test builds (tag jumpingclock) has one that the test sets,
// for no other process can be given a clock of its own.
package clock
