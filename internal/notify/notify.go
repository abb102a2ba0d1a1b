package notify

import "sync"

// Notifier is ready to use as it is.
type Notifier struct {
	mu sync.Mutex
	c  chan struct{}
}

// Next returns a channel that the next Broadcast closes.
func (n *Notifier) Next() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.c == nil {
		n.c = make(chan struct{})
	}
	return n.c
}

// Broadcast wakes everyone who waits.
func (n *Notifier) Broadcast() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.c != nil {
		close(n.c)
		n.c = nil
	}
}
