package journal

import (
	"context"
	"net"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/pki"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/transport"
)

// TestGrownReleases: another member leads a journal that was alone before, and must
// not let the agent forget what only the first one's process can read.
func TestGrownReleases(t *testing.T) {
	c := newClusterTest(t, 1, func(o *Options) { o.Cluster = nil })
	c.source = true
	c.stop(0)
	c.start(0)
	c.group()
	c.write(40)
	c.stop(0)
	c.set = func(*Options) {}
	c.start(0)
	c.await("lead", func() bool { return c.leader() != nil })
	for range 2 {
		c.more()
	}
	released := func(j *Journal) uint64 {
		return peekFSM(j, func(f *fsm) uint64 { return view{f}.releasedLSN(c.stream) })
	}
	c.write(3)
	if err := c.leader().Transfer(c.addrs[1]); err != nil {
		t.Fatal(err)
	}
	c.await("new leader", func() bool { return c.members[1].Leads() })
	c.write(1)
	r := released(c.members[1])
	for lsn := range c.sent { // the agent trims its WAL as told
		if lsn <= r {
			c.sent[lsn] = []byte{0}
		}
	}
	if err := c.members[1].Transfer(c.addrs[0]); err != nil {
		t.Fatal(err)
	}
	c.await("old leader", func() bool { return c.members[0].Leads() })
	j := c.members[0]
	bad, n := 0, 0
	var last error
	var es []Entry
	if err := j.Entries(j.Floor(), func(e Entry) bool { es = append(es, e); return true }); err != nil {
		t.Fatal(err)
	}
	for k := range es {
		n++
		if err := j.Fetch(&es[k], make([]byte, es[k].Bytes)); err != nil {
			bad++
			last = err
		}
	}
	if bad > 0 || j.Snapshot() != nil {
		t.Errorf("cannot read %d of %d entries: %v", bad, n, last)
	}
}

// TestForeignAppend: an agent extends another's stream, whose lease it knows from
// its copy of the control state.
func TestForeignAppend(t *testing.T) {
	c := newClusterTest(t, 1)
	c.form()
	c.write(2)
	j := c.leader()
	before := j.Point(c.stream)
	var lease change.Lease
	j.View(func(s *state.State) { lease = s.Streams[c.stream].Lease }) // every agent has it in its copy
	raw, _ := net.Dial("tcp", c.addrs[0])
	conn := transport.NewConn(raw, time.Second)
	defer conn.Close()
	_ = conn.Send(uint16(change.MsgHello), change.Encode(change.Hello{Agent: "evil"}))
	if _, _, err := conn.Recv(); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 4096)
	h := change.Header{Stream: c.stream, FirstLSN: c.at.LSN + 1, Prev: c.at.Hash, FirstTime: 1, LastTime: 1}
	b, _ := c.enc.Encode(&h, []change.Change{{Kind: change.Write, Volume: 1, Off: 0, Len: 4096, Data: [][]byte{data}}})
	a := change.Append{Stream: c.stream, Lease: lease,
		Items: []change.AppendItem{{Header: b[:change.HeaderBytes], Body: b[change.HeaderBytes:]}}}
	_ = conn.Send(uint16(change.MsgAppend), a.Parts()...)
	if _, _, err := conn.Recv(); err == nil {
		t.Error("it was not hung up on")
	}
	if now := j.Point(c.stream); now != before {
		t.Errorf("agent evil moved agent a's stream from %v to %v", before, now)
	}
	c.write(1)
}

// TestPromoteRemoved: a member is removed while it is asked whether it may vote.
func TestPromoteRemoved(t *testing.T) {
	var slow atomic.Bool
	c := newClusterTest(t, 2, func(o *Options) {
		o.Cluster.Dial = func(ctx context.Context, a string) (net.Conn, error) {
			if slow.Load() {
				time.Sleep(700 * time.Millisecond)
			}
			var d net.Dialer
			return d.DialContext(ctx, "tcp", a)
		}
	})
	slow.Store(true)
	if err := c.members[0].Init(); err != nil {
		t.Fatal(err)
	}
	j := c.leader()
	m := c.members[1]
	c.await("the joining member", func() bool {
		_, n := j.count()
		return n == 2 && m.raft.AppliedIndex() >= j.raft.CommitIndex()
	})
	v, n := j.count()
	t.Logf("before Remove: %d voters of %d", v, n)
	if err := j.Remove(c.addrs[1]); err != nil {
		t.Fatal(err)
	}
	v, n = j.count()
	t.Logf("after Remove: %d voters of %d", v, n)
	time.Sleep(3 * time.Second)
	v, n = j.count()
	if n != 1 {
		t.Errorf("3 s later: %d voters of %d", v, n)
	}
}

// TestStrangers: idle connections of nobody keep nobody out.
func TestStrangers(t *testing.T) {
	c := newClusterTest(t, 1)
	c.form()
	for range 1024 {
		raw, err := net.Dial("tcp", c.addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
	}
	start := time.Now()
	raw, _ := net.Dial("tcp", c.addrs[0])
	conn := transport.NewConn(raw, time.Second)
	defer conn.Close()
	_ = conn.Send(uint16(change.MsgHello), change.Encode(change.Hello{Agent: "a"}))
	_, _, err := conn.Recv()
	if d := time.Since(start); err != nil || d > greetTimeout/2 {
		t.Errorf("an agent was greeted after %v: %v", d, err)
	}
}

// TestAccess: what agent b may not do to agent a's group.
func TestAccess(t *testing.T) {
	c := newClusterTest(t, 1)
	c.form()
	j := c.leader()
	mine := uuid.New()
	b := pki.Peer{Role: pki.Agent, Name: "b"}
	try := func(what string, kind state.Kind, v any) {
		p := change.Propose{Command: state.Encode(kind, v)}
		if e := j.propose(b, &p).Error.Err("", ""); e == nil {
			t.Errorf("agent b did: %s", what)
		} else {
			t.Logf("refused: %s: %v", what, e)
		}
	}
	try("its own stream in a's group", state.KindStreamCreate, state.Stream{ID: mine, Group: "g", Agent: "b"})
	try("a bookmark in a's group at a LSN of its own stream", state.KindBookmarkAdd,
		state.Bookmark{Group: "g", Name: "x", Stream: mine})
	try("audit entry in another's name", state.KindAudit, state.Audit{Who: "operator/alice", Verb: "volume-remove"})
	p := change.Propose{Command: state.Encode(state.KindGroupPut, state.Group{Name: "g", Ack: "journal"})}
	if e := j.propose(pki.Peer{Role: pki.Agent, Name: "a"}, &p).Error.Err("", ""); e != nil {
		t.Errorf("agent a cannot set its own group's policy any more: %v", e)
	}
}

// TestBackupInPlace: a backup is written over the directory's own files.
func TestBackupInPlace(t *testing.T) {
	c := newClusterTest(t, 3)
	c.form()
	c.write(5)
	i := (c.index(c.leader()) + 1) % 3
	c.stop(i)
	if out, err := exec.Command("cp", "-a", c.path(i), c.path(i)+".bak").CombinedOutput(); err != nil {
		t.Fatal(string(out))
	}
	c.start(i)
	c.write(20)
	c.equal()
	was := c.members[i].raft.LastIndex()
	c.stop(i)
	// everything but the directory itself and the mark is put back
	back := "cd " + c.path(i) + " && rm -rf raft state snapshots && cp -a " + c.path(i) + ".bak/. ."
	if out, err := exec.Command("sh", "-c", back).CombinedOutput(); err != nil {
		t.Fatal(string(out))
	}
	for k := range c.members { // the others are away: what does it promise
		c.stop(k)
	}
	j, err := Open(context.Background(), c.options(i))
	if err != nil {
		t.Logf("refused: %v", err)
		return
	}
	t.Errorf("a backup put back by cp -a is taken: last entry %d, it had acknowledged %d", j.raft.LastIndex(), was)
	_ = j.Close()
}

// TestCopyStartedAlone: a copy is not made an original by a start without the
// others.
func TestCopyStartedAlone(t *testing.T) {
	c := newClusterTest(t, 3)
	c.form()
	c.write(5)
	i := (c.index(c.leader()) + 1) % 3
	c.stop(i)
	dir := c.path(i)
	again := "cp -a " + dir + " " + dir + ".x && rm -rf " + dir + " && mv " + dir + ".x " + dir
	if out, err := exec.Command("sh", "-c", again).CombinedOutput(); err != nil {
		t.Fatal(string(out))
	}
	if _, err := Open(context.Background(), c.options(i)); err == nil {
		t.Fatal("taken at once")
	}
	o := c.options(i)
	o.Cluster = nil
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err := Open(ctx, o)
	t.Logf("started alone: %v", err)
	j, err := Open(context.Background(), c.options(i))
	if err == nil {
		t.Errorf("the copy is taken after a start without a cluster")
		_ = j.Close()
	}
}

// TestOtherTargets: a member whose file says something else of the targets is not
// let in, and what is durable does not depend on who leads.
func TestOtherTargets(t *testing.T) {
	n := 0
	c := newClusterTest(t, 2, func(o *Options) {
		o.Targets, o.Required = []string{"x", "y"}, []string{"x", "y"}
		if n++; n%2 == 0 { // the second member's file says optional
			o.Required = []string{"x"}
		}
	})
	if err := c.members[0].Init(); err != nil {
		t.Fatal(err)
	}
	c.group()
	c.await("the refusal", func() bool { return fail.Is(c.members[1].Waiting(), fail.Refused) })
	c.write(3)
	j := c.leader()
	at := map[change.StreamID]change.Point{c.stream: c.at}
	if err := j.Uploaded(Uploaded{Target: "x", Position: 2, Index: j.LastIndex(), Streams: at}); err != nil {
		t.Fatal(err)
	}
	if d := j.Durable(c.stream); d != 0 {
		t.Errorf("durable up to %d in one of two required targets", d)
	}
}
