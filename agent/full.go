package agent

import (
	"context"
	"time"
)

// fullRetry is how often a full log is tried again.
const fullRetry = time.Second

// waitTrim blocks until the WAL was trimmed or ctx ends, and asks for a
// checkpoint, which may be all that is missing.
func (a *Agent) waitTrim(ctx context.Context) {
	c := a.trimmed.Next()
	wake(a.wakeCheckpoint)
	select {
	case <-c:
	case <-time.After(fullRetry): // a disk gets room without telling anybody
	case <-ctx.Done():
	}
}
