package transport

import (
	"context"
	"net"
	"sync"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Finder connects to whichever of several addresses leads: to the one that was
// named last, else to one after the other. It is safe for concurrent use.
type Finder struct {
	dial      func(ctx context.Context, address string) (net.Conn, error)
	addresses []string

	mu     sync.Mutex
	leader string
	next   int
}

// NewFinder looks among addresses, and wherever they point.
func NewFinder(addresses []string, dial func(ctx context.Context, address string) (net.Conn, error)) *Finder {
	return &Finder{dial: dial, addresses: addresses}
}

// Dial connects to the address that is believed to lead. Errors are fail.Retry;
// the next Dial tries another.
func (f *Finder) Dial(ctx context.Context) (net.Conn, error) {
	f.mu.Lock()
	address := f.leader
	if address == "" {
		address = f.addresses[f.next%len(f.addresses)]
	}
	f.mu.Unlock()
	c, err := f.dial(ctx, address)
	if err != nil {
		f.SetLeader("")
		return nil, fail.Wrap(fail.Retry, "connect to", "journal at "+address, err)
	}
	return c, nil
}

// SetLeader says where the lead is now; "" that it is not where it was believed to be.
func (f *Finder) SetLeader(leader string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leader = leader
	if leader == "" {
		f.next++
	}
}
