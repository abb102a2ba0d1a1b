package seed

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

const variable = "POLLUX_SEED"

// New is what POLLUX_SEED says, else a new seed, and is in the test's log either way.
func New(t testing.TB) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv(variable); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("%s: %v", variable, err)
		}
	}
	t.Logf("%s=%d", variable, seed)
	return seed
}
