package agent

import (
	"context"
	"sync"
	"time"
)

const fullRetry = time.Second

// notifier lets any number of goroutines wait for the next event.
type notifier struct {
	mu sync.Mutex
	c  chan struct{}
}

// next returns a channel that the next broadcast closes.
func (n *notifier) next() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.c == nil {
		n.c = make(chan struct{})
	}
	return n.c
}

func (n *notifier) broadcast() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.c != nil {
		close(n.c)
		n.c = nil
	}
}

// waitTrim blocks until the WAL was trimmed or ctx ends, and asks for a
// checkpoint, which may be all that is missing.
func (a *Agent) waitTrim(ctx context.Context) {
	c := a.trimmed.next()
	wake(a.wakeCheckpoint)
	select {
	case <-c:
	case <-time.After(fullRetry): // a disk gets room without telling anybody
	case <-ctx.Done():
	}
}
