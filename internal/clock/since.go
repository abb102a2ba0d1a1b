package clock

import "time"

var started = time.Now()

// SinceStart is the process's age, ns: a time that no change of the clock touches.
func SinceStart() int64 { return int64(time.Since(started)) }
