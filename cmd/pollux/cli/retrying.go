package cli

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/internal/clock"
)

// retrying says that a store is asked again, and why: once for each cause, and then only
// now and then. Requests run side by side, and all fail of the same.
type retrying struct {
	w     io.Writer
	store string

	mu   sync.Mutex
	last string
	told time.Time
}

// retryingEvery is how often the same cause is told.
const retryingEvery = 30 * time.Second

func (r *retrying) tell(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, cause := clock.Now(), rootOf(err)
	if cause == r.last && now.Sub(r.told) < retryingEvery {
		return
	}
	r.last, r.told = cause, now
	fmt.Fprintf(r.w, "pollux: trying again: %s: %s\n", r.store, cause)
}

// rootOf is the text of what an error began with.
func rootOf(err error) string {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err.Error()
		}
		err = next
	}
}
