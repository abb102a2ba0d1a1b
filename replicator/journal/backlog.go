package journal

import (
	"encoding/binary"
	"sort"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
)

// backlog counts the bytes of the frames that are not yet in every target, to
// about a stepBytes.
type backlog struct {
	total, dropped int64
	marks          []backlogMark
}

// backlogMark: up to index, total bytes.
type backlogMark struct {
	index uint64
	total int64
}

const stepBytes = 1 << 20

func (b *backlog) add(index uint64, n int64) {
	b.total += n
	if k := len(b.marks) - 1; k > 0 && b.total-b.marks[k-1].total < stepBytes {
		b.marks[k] = backlogMark{index, b.total}
		return
	}
	b.marks = append(b.marks, backlogMark{index, b.total})
}

// drop forgets what lies below floor.
func (b *backlog) drop(floor uint64) {
	n := 0
	for n < len(b.marks) && b.marks[n].index < floor {
		b.dropped = b.marks[n].total
		n++
	}
	b.marks = append(b.marks[:0], b.marks[n:]...)
}

func (b *backlog) bytes() int64 { return b.total - b.dropped }

// after is bytes for whoever has the journal up to index.
func (b *backlog) after(index uint64) int64 {
	n := sort.Search(len(b.marks), func(i int) bool { return b.marks[i].index > index })
	if n == 0 {
		return b.total - b.dropped
	}
	return b.total - b.marks[n-1].total
}

// Backlog is the bytes of the frames after index that the journal holds, to about
// a MiB.
func (j *Journal) Backlog(index uint64) int64 {
	j.fsm.mu.RLock()
	defer j.fsm.mu.RUnlock()
	return j.fsm.backlog.after(index)
}

// Behind tells how far a target that holds the journal up to index lags: the age
// of the oldest frame after it, and the bytes of all of them to about a MiB.
func (j *Journal) Behind(index uint64) (lag time.Duration, bytes int64) {
	var oldest int64
	_ = j.Entries(index+1, func(e Entry) bool { // for a status: what cannot be read is somebody else's error
		oldest = e.FirstTime
		return oldest == 0
	})
	if oldest == 0 {
		return 0, 0
	}
	j.fsm.mu.RLock()
	defer j.fsm.mu.RUnlock()
	return max(0, clock.Now().Sub(time.Unix(0, oldest))), j.fsm.backlog.after(index)
}

// countFrame takes an index value into account at a start.
func (f *fsm) countFrame(index uint64, v []byte) {
	head := appendedHead
	switch {
	case len(v) > loggedHead && v[0] == tagLogged:
		head = loggedHead
	case len(v) == appendedHead+change.HeaderBytes && v[0] == tagAppend && binary.LittleEndian.Uint64(v[1:]) > 0:
		f.lastRef = max(f.lastRef, index)
	case len(v) == 0 || v[0] != tagAppend:
		return
	}
	if h, _, err := change.ParseHeader(v[head:]); err == nil { // else whoever reads it says so
		f.backlog.add(index, int64(h.FrameBytes()))
	}
}

// news is the order in which keys of the control state changed. Followers read on
// from where they were; one that is too far behind begins anew.
type news struct {
	first uint64 // number of keys[0]
	keys  []string
}

const newsKeys = 8192

func (n *news) add(key string) {
	if len(n.keys) == newsKeys {
		n.keys = append(n.keys[:0], n.keys[newsKeys/2:]...)
		n.first += newsKeys / 2
	}
	n.keys = append(n.keys, key)
}

// end is the number of the next one.
func (n *news) end() uint64 { return n.first + uint64(len(n.keys)) }

// since returns what changed from number from on, and whether all of that is known.
func (n *news) since(from uint64) ([]string, bool) {
	if from < n.first || from > n.end() {
		return nil, false
	}
	return n.keys[from-n.first:], true
}

// restart makes every follower begin anew.
func (n *news) restart() { n.first, n.keys = n.end()+newsKeys, nil }
