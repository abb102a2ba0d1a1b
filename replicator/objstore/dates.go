package objstore

import (
	"sync"
	"time"
)

// Dates collects the times that a store's answers carry, by the store's own clock: the Date
// header of an S3 server, the time of a new file. A process that was suspended learns there
// how long it was away, whatever its own clocks say. Its methods may be called concurrently,
// and on nil.
type Dates struct {
	mu             sync.Mutex
	earliest, last time.Time // of those that count; zero: none yet
	newest         time.Time // that came, whatever it says
}

// Note adds an answer's time; the zero time is none.
func (d *Dates) Note(t time.Time) {
	if d == nil || t.IsZero() {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.newest = t
	if d.earliest.IsZero() || t.Before(d.earliest) {
		d.earliest = t
	}
	if t.After(d.last) {
		d.last = t
	}
}

// Restart forgets all but the one that came last.
func (d *Dates) Restart() {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.earliest, d.last = d.newest, d.newest
}

// Span is how far those since Restart, and the last one before it, are apart.
func (d *Dates) Span() time.Duration {
	if d == nil {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last.Sub(d.earliest)
}
