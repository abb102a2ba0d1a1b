package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

var started = time.Now()

// SinceStart is the process's age, ns: a time that no change of the clock touches.
func SinceStart() int64 { return int64(time.Since(started)) }

// SinceBoot is the machine's age, the time that it was suspended included.
func SinceBoot() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // it cannot fail for a clock that there is
	return time.Duration(t.Nano())
}
