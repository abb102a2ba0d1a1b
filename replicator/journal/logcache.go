package journal

import (
	"sync"

	"github.com/hashicorp/raft"
)

// logCache keeps the newest entries of Raft's log in memory: a leader reads each
// of them once per follower, and the one before a batch for its term alone.
type logCache struct {
	mu      sync.Mutex
	entries []*raft.Log // consecutive indexes
	bytes   int
}

// cacheBytes is more than what is on its way to followers that keep up.
const cacheBytes = 16 << 20

// add takes entries that are in the log now. Raft does not change them.
func (c *logCache) add(logs []*raft.Log) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range logs {
		if n := len(c.entries); n > 0 && c.entries[n-1].Index+1 != l.Index {
			c.entries, c.bytes = nil, 0
		}
		c.entries, c.bytes = append(c.entries, l), c.bytes+len(l.Data)
	}
	n := 0
	for c.bytes > cacheBytes && n < len(c.entries)-1 {
		c.bytes -= len(c.entries[n].Data)
		n++
	}
	if n > 0 {
		clear(c.entries[:n])
		c.entries = c.entries[n:]
	}
}

// get copies an entry to l, if it is here.
func (c *logCache) get(index uint64, l *raft.Log) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.entries) == 0 || index < c.entries[0].Index || index-c.entries[0].Index >= uint64(len(c.entries)) {
		return false
	}
	*l = *c.entries[index-c.entries[0].Index]
	return true
}

// drop forgets everything: the log was cut.
func (c *logCache) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries, c.bytes = nil, 0
}
