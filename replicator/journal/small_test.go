package journal

import (
	"fmt"
	"slices"
	"testing"

	"github.com/hashicorp/raft"
)

func TestLogCache(t *testing.T) {
	var c logCache
	entry := func(i uint64, n int) *raft.Log { return &raft.Log{Index: i, Term: i, Data: make([]byte, n)} }
	has := func(i uint64) bool { var l raft.Log; return c.get(i, &l) && l.Index == i && l.Term == i }
	if has(1) {
		t.Error("an empty cache has an entry")
	}
	c.add([]*raft.Log{entry(5, 10), entry(6, 10)})
	c.add([]*raft.Log{entry(7, 10)})
	if has(4) || !has(5) || !has(7) || has(8) {
		t.Error("5 to 7 were added")
	}
	c.add([]*raft.Log{entry(20, 10)}) // after an installed snapshot
	if has(7) || !has(20) {
		t.Error("a gap in the cache")
	}
	for i := uint64(21); i < 400; i++ {
		c.add([]*raft.Log{entry(i, 100<<10)})
		if c.bytes > cacheBytes+100<<10 {
			t.Fatalf("%d bytes", c.bytes)
		}
	}
	if has(21) || !has(399) || !has(300) {
		t.Error("the newest are not kept, or the oldest are")
	}
	c.add([]*raft.Log{entry(400, 2*cacheBytes)}) // one that is larger than all
	if !has(400) || has(399) {
		t.Error("an entry that is larger than the cache")
	}
	c.drop()
	if has(400) {
		t.Error("dropped, and there")
	}
}

func TestBacklog(t *testing.T) {
	var b backlog
	const n = 100 << 10
	for i := uint64(1); i <= 100; i++ {
		b.add(i, n)
	}
	near := func(what string, got, want int64) {
		t.Helper()
		if got < want-stepBytes-n || got > want+stepBytes+n {
			t.Errorf("%s: %d bytes, want about %d", what, got, want)
		}
	}
	near("all", b.bytes(), 100*n)
	near("after 60", b.after(60), 40*n)
	b.drop(51)
	near("from 51 on", b.bytes(), 50*n)
	b.drop(101)
	if b.bytes() != 0 || len(b.marks) != 0 {
		t.Errorf("%d bytes, %d marks of nothing", b.bytes(), len(b.marks))
	}
	b.add(101, 5)
	if b.bytes() != 5 {
		t.Errorf("%d bytes", b.bytes())
	}
}

func TestNews(t *testing.T) {
	var n news
	read := n.end()
	n.add("a")
	n.add("b")
	if got, ok := n.since(read); !ok || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("%v, %v", got, ok)
	}
	read = n.end()
	if got, ok := n.since(read); !ok || len(got) != 0 {
		t.Errorf("nothing new: %v, %v", got, ok)
	}
	if _, ok := n.since(^uint64(0)); ok {
		t.Error("who has read nothing goes on")
	}
	for i := range newsKeys + 10 {
		n.add(fmt.Sprint(i))
	}
	if _, ok := n.since(read); ok {
		t.Error("who is too far behind goes on")
	}
	read = n.end()
	n.restart()
	if _, ok := n.since(read); ok {
		t.Error("another state, and a follower goes on")
	}
}
