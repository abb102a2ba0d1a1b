package journal

import (
	"context"
	"sync"

	"github.com/pollux-dr/pollux/internal/notify"
)

// lead is whether this member leads the journal, and under which term.
type lead struct {
	changed notify.Notifier // after every change

	mu   sync.Mutex
	ctx  context.Context // ends with the lead; nil before the first one
	term uint64
}

// Leads reports whether this member leads and has applied all that was committed
// before.
func (l *lead) Leads() bool {
	ctx, _ := l.now()
	return ctx != nil
}

// now is a context that ends with the lead, and its term; nil where this member does
// not lead.
func (l *lead) now() (context.Context, uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx == nil || l.ctx.Err() != nil {
		return nil, 0
	}
	return l.ctx, l.term
}

// begin makes this member lead until ctx ends; if it has ended already, another lead
// may have begun.
func (l *lead) begin(ctx context.Context, term uint64) {
	l.mu.Lock()
	if ctx.Err() == nil {
		l.ctx, l.term = ctx, term
	}
	l.mu.Unlock()
	l.changed.Broadcast()
}

// Lead calls work each time when this member begins to lead, with the term and a
// context that ends with the lead, until ctx ends. Work that returns early is not
// called again under the same lead.
func (l *lead) Lead(ctx context.Context, work func(ctx context.Context, term uint64)) {
	var done context.Context
	for ctx.Err() == nil {
		turned := l.changed.Next()
		if now, term := l.now(); now != nil && now != done {
			done = now
			both, cancel := context.WithCancel(ctx)
			stop := context.AfterFunc(now, cancel)
			work(both, term)
			stop()
			cancel()
			continue
		}
		select {
		case <-turned:
		case <-ctx.Done():
		}
	}
}
