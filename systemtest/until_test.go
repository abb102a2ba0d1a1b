package systemtest

import (
	"testing"
	"time"
)

// until polls cond; its last error is shown when the time is up.
func until(t *testing.T, limit time.Duration, what string, cond func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = cond(); err == nil {
			return
		}
	}
	t.Fatalf("%s: not within %v: %v", what, limit, err)
}
