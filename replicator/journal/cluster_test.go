package journal

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/transport"
)

// clusterTest is a journal of several members in one process, over loopback TCP,
// and an agent that writes frames into it.
type clusterTest struct {
	t       testing.TB
	dir     string
	addrs   []string
	members []*Journal
	stops   []func()
	set     func(*Options)

	enc    change.Encoder
	stream change.StreamID
	at     change.Point
	sent   map[uint64][]byte // by last LSN
	source bool              // the first member can read sent, as if the agent were in its process
}

func newClusterTest(t testing.TB, n int, set ...func(*Options)) *clusterTest {
	c := &clusterTest{t: t, dir: t.TempDir(), stream: uuid.New(), sent: map[uint64][]byte{},
		members: make([]*Journal, n), stops: make([]func(), n), set: func(*Options) {}}
	if len(set) > 0 {
		c.set = set[0]
	}
	var held []net.Listener
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, l)
		c.addrs = append(c.addrs, l.Addr().String())
	}
	for _, l := range held {
		_ = l.Close()
	}
	for i := range n {
		c.start(i)
	}
	t.Cleanup(func() {
		for i := range c.members {
			c.stop(i)
		}
	})
	return c
}

func (c *clusterTest) path(i int) string { return filepath.Join(c.dir, fmt.Sprint("m", i)) }

func (c *clusterTest) options(i int) Options {
	o := Options{Dir: c.path(i), Targets: []string{"x"}, Required: []string{"x"},
		LogSegmentBytes: 1 << 20, Site: "here", Heartbeat: time.Hour, Election: 150 * time.Millisecond, TrailingLogs: 4,
		Cluster: &Cluster{Address: c.addrs[i], Peers: c.addrs,
			Dial: func(ctx context.Context, a string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "tcp", a)
			}}}
	if os.Getenv("POLLUX_TEST_LOG") != "" {
		o.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("member", i)
	}
	c.set(&o)
	return o
}

func (c *clusterTest) start(i int) {
	c.t.Helper()
	j, err := Open(context.Background(), c.options(i))
	if err != nil {
		c.t.Fatal(err)
	}
	l, err := net.Listen("tcp", c.addrs[i])
	if err != nil {
		c.t.Fatal(err)
	}
	if c.source && i == 0 {
		j.SetSource(func(ref uint64, buf []byte) ([]byte, error) { return append(buf, c.sent[ref]...), nil })
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- j.Serve(ctx, l) }()
	c.members[i] = j
	c.stops[i] = func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
		if err := j.Close(); err != nil {
			c.t.Error(err)
		}
	}
}

func (c *clusterTest) stop(i int) {
	if c.members[i] != nil {
		c.stops[i]()
		c.members[i] = nil
	}
}

// await polls what; it fails the test after a generous time.
func (c *clusterTest) await(what string, ok func() bool) {
	c.t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(end) {
			c.t.Fatalf("%s does not come", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// leader waits for the one that leads.
func (c *clusterTest) leader() *Journal {
	c.t.Helper()
	var lead *Journal
	c.await("a leader", func() bool {
		for _, j := range c.members {
			if j != nil && j.Leads() {
				lead = j
			}
		}
		return lead != nil
	})
	return lead
}

func (c *clusterTest) index(j *Journal) int {
	for i := range c.members {
		if c.members[i] == j {
			return i
		}
	}
	return -1
}

// form makes the members one journal with a group and a stream.
func (c *clusterTest) form() {
	c.t.Helper()
	if err := c.members[0].Init(); err != nil {
		c.t.Fatal(err)
	}
	c.voters(len(c.members))
	c.group()
}

// group creates a group with a stream. On a busy machine the leader may change.
func (c *clusterTest) group() {
	c.t.Helper()
	for _, cmd := range []struct {
		kind state.Kind
		v    any
	}{{state.KindGroupPut, state.Group{Name: "g", Ack: "local"}},
		{state.KindStreamCreate, state.Stream{ID: c.stream, Group: "g", Agent: "a"}}} {
		c.await("the group", func() bool {
			_, err := c.leader().Propose(cmd.kind, cmd.v)
			if err != nil && !fail.Is(err, fail.Retry) && !fail.Is(err, fail.Exists) {
				c.t.Fatal(err)
			}
			return !fail.Is(err, fail.Retry)
		})
	}
}

// TestGrow begins with a journal that is alone and holds frames by reference, and
// makes it one of three.
func TestGrow(t *testing.T) {
	c := newClusterTest(t, 1, func(o *Options) { o.Cluster = nil })
	address := c.addrs[0]
	c.source = true
	c.stop(0)
	c.start(0)
	c.group()
	c.write(40)
	alone := c.members[0]
	if !alone.References() || peekFSM(alone, func(f *fsm) uint64 { return f.lastRef }) == 0 {
		t.Fatal("the frames are not held by reference")
	}
	c.stop(0)
	c.set = func(*Options) {}
	c.start(0)
	c.await("the new address", func() bool {
		s := c.leader().servers()
		return len(s) == 1 && string(s[0].Address) == address
	})
	c.write(40)
	c.equal()
	for range 2 {
		c.more()
		c.write(5)
	}
	c.equal()
	c.stop(0) // whoever was alone is not needed any more
	c.write(5)
	c.equal()
	c.start(0)
	c.write(5)
	c.equal()
}

// more starts one more member and waits until it votes.
func (c *clusterTest) more() {
	c.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	c.addrs = append(c.addrs, l.Addr().String())
	_ = l.Close()
	c.members, c.stops = append(c.members, nil), append(c.stops, nil)
	c.start(len(c.members) - 1)
	c.voters(len(c.members))
}

func (c *clusterTest) voters(n int) {
	c.t.Helper()
	c.await(fmt.Sprint(n, " voters"), func() bool { v, m := c.leader().count(); return v == n && m == n })
}

// write appends frames, through whoever leads, until they are committed.
func (c *clusterTest) write(frames int) {
	c.t.Helper()
	for range frames {
		data := bytes.Repeat([]byte{byte(c.at.LSN)}, 4096)
		h := change.Header{Stream: c.stream, FirstLSN: c.at.LSN + 1, Prev: c.at.Hash, FirstTime: 1, LastTime: 1}
		b, hash := c.enc.Encode(&h, []change.Change{{Kind: change.Write, Volume: 1, Off: int64(c.at.LSN) * 4096,
			Len: 4096, Data: [][]byte{data}}})
		c.at = change.Point{LSN: h.LastLSN, Hash: hash}
		c.sent[h.LastLSN] = bytes.Clone(b)
	}
	c.await("the commit", func() bool {
		err := c.session()
		if err != nil && !fail.Is(err, fail.Retry) {
			c.t.Fatal(err)
		}
		return err == nil
	})
}

// session sends what the leader lacks.
func (c *clusterTest) session() error {
	raw, err := net.Dial("tcp", c.addrs[c.index(c.leader())])
	if err != nil {
		return fail.Wrap(fail.Retry, "dial", "", err)
	}
	conn := transport.NewConn(raw, time.Second)
	conn.SetIdleLimit(change.BeatLimit)
	defer conn.Close()
	var at change.Attached
	if err := conn.Send(uint16(change.MsgHello), change.Encode(change.Hello{Agent: "a", Reference: true})); err != nil {
		return err
	}
	var welcome change.Welcome
	if _, b, err := conn.Recv(); err != nil {
		return err
	} else if err := change.Decode(b, &welcome); err != nil {
		return err
	} else if err := welcome.Error.Err("greet", ""); err != nil {
		return err
	}
	if err := ask(conn, change.MsgAttach, change.Attach{Stream: c.stream}, change.MsgAttached, &at); err != nil {
		return err
	}
	if err := at.Error.Err("attach", ""); err != nil {
		return err
	}
	committed := at.Committed
	a := change.Append{Stream: c.stream, Lease: at.Lease}
	for lsn := committed.LSN + 1; lsn <= c.at.LSN; lsn++ {
		f := c.sent[lsn]
		item := change.AppendItem{Ref: lsn, Header: f[:change.HeaderBytes]}
		if !welcome.Reference {
			item.Body = f[change.HeaderBytes:]
		}
		a.Items = append(a.Items, item)
		if len(a.Items) < 7 && lsn < c.at.LSN {
			continue
		}
		if err := conn.Send(uint16(change.MsgAppend), a.Parts()...); err != nil {
			return err
		}
		a.Items = nil
	}
	for committed != c.at {
		typ, b, err := conn.Recv()
		if err != nil {
			return err
		}
		if change.MessageType(typ) != change.MsgAck {
			continue
		}
		var ack change.Ack
		if err := change.Decode(b, &ack); err != nil {
			return err
		}
		if err := ack.Fault.Err("append", ""); err != nil {
			return err
		}
		committed = ack.Committed
	}
	return nil
}

// equal waits until every member that runs stands where the leader stands, and
// compares every frame that it holds with what was sent.
func (c *clusterTest) equal() {
	c.t.Helper()
	last := c.leader().LastIndex()
	for i, j := range c.members {
		if j == nil {
			continue
		}
		c.await(fmt.Sprintf("member %d at index %d", i, last), func() bool { return j.LastIndex() >= last })
		if p := j.Point(c.stream); p != c.at {
			c.t.Fatalf("member %d stands at %v, %v was committed", i, p, c.at)
		}
		for _, kept := range []bool{true, false} {
			if !kept {
				alterFSM(j, func(f *fsm) { f.recent = recent{} }) // from Raft's log, then
			}
			var entries []Entry
			if err := j.Entries(j.Floor(),
				func(e Entry) bool { entries = append(entries, e); return true }); err != nil {
				c.t.Fatal(err)
			}
			for k := range entries {
				e := &entries[k]
				b := make([]byte, e.Bytes)
				if err := j.Fetch(e, b); err != nil {
					c.t.Fatalf("member %d: %v", i, err)
				}
				if e.LastLSN > 0 && !bytes.Equal(b, c.sent[e.LastLSN]) {
					c.t.Fatalf("member %d holds another frame at LSN %d", i, e.LastLSN)
				}
			}
		}
	}
}

// TestCluster forms a journal of three, and takes a member away in every way: the
// leader stops, a member loses its directory, all stop at once.
func TestCluster(t *testing.T) {
	c := newClusterTest(t, 3)
	c.form()
	c.write(50)
	c.equal()

	lead := c.index(c.leader())
	c.stop(lead)
	c.write(50)
	c.start(lead)
	c.equal()

	lost := (lead + 1) % 3
	old := c.members[lost].member.id
	c.stop(lost)
	if err := os.RemoveAll(c.path(lost)); err != nil {
		t.Fatal(err)
	}
	c.start(lost)
	c.await("the new member's vote", func() bool {
		if c.members[lost].member.id == old {
			t.Fatal("an id was used again")
		}
		for _, s := range c.leader().servers() {
			if string(s.ID) == old {
				return false
			}
		}
		v, m := c.leader().count()
		return v == 3 && m == 3
	})
	c.write(50)
	c.equal()

	for i := range c.members {
		c.stop(i)
	}
	for i := range c.members {
		c.start(i)
	}
	c.write(50)
	c.equal()
	if st := c.leader().Status(); st.PendingBytes < 200*4096/10 {
		t.Errorf("%d bytes pending of 200 frames", st.PendingBytes)
	}
}

// TestClusterSnapshot lets a member come after Raft's log was cut: the frames that
// no target has come with the snapshot, and stay in the log of those who have it.
func TestClusterSnapshot(t *testing.T) {
	c := newClusterTest(t, 3)
	c.form()
	c.stop(2)
	c.write(300)
	c.await("the leader's log to be cut", func() bool { // under load another may lead by now
		lead := c.leader()
		if err := lead.Snapshot(); err != nil {
			t.Fatal(err)
		}
		first, _ := lead.logs.FirstIndex()
		return first >= 10
	})
	c.write(20)
	c.start(2)
	c.equal()
	for i := range 3 { // and after a restart on it
		c.stop(i)
		c.start(i)
		c.write(5)
	}
	c.equal()
	// Uploaded frees the log.
	j := c.leader()
	before := j.wal.First()
	if err := j.Uploaded(Uploaded{Target: "x", Position: 2, Index: j.LastIndex()}); err != nil {
		t.Fatal(err)
	}
	c.write(300)
	if err := j.Uploaded(Uploaded{Target: "x", Position: 3, Index: j.LastIndex()}); err != nil {
		t.Fatal(err)
	}
	if err := j.Snapshot(); err != nil {
		t.Fatal(err)
	}
	if now := j.wal.First(); now <= before {
		t.Errorf("the log begins at %d, as before", now)
	}
	c.write(5)
	c.equal()
}

// TestCopiedDirectory puts a copy of a member's directory in its place.
func TestCopiedDirectory(t *testing.T) {
	c := newClusterTest(t, 3)
	c.form()
	c.write(5)
	c.stop(1)
	if err := os.Rename(c.path(1), c.path(1)+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(c.path(1), os.DirFS(c.path(1)+".old")); err != nil {
		t.Fatal(err)
	}
	j, err := Open(context.Background(), c.options(1))
	if err == nil {
		_ = j.Close()
	}
	if !fail.Is(err, fail.Refused) {
		t.Fatalf("opened: %v", err)
	}
	if err := os.RemoveAll(c.path(1)); err != nil {
		t.Fatal(err)
	}
	c.start(1)
	c.voters(3)
	c.write(5)
	c.equal()
}

// TestRemoveMember removes one, which must not come back under its old id.
func TestRemoveMember(t *testing.T) {
	c := newClusterTest(t, 3)
	c.form()
	out := (c.index(c.leader()) + 1) % 3
	if err := c.leader().Remove(c.addrs[out]); err != nil {
		t.Fatal(err)
	}
	c.voters(2)
	c.write(5)
	err := c.leader().admit(context.Background(), &change.Join{Member: c.members[out].member.id, Address: c.addrs[out]})
	if !fail.Is(err, fail.Refused) {
		t.Errorf("let in again: %v", err)
	}
	c.await("the removed member's word of it", func() bool { return fail.Is(c.members[out].Waiting(), fail.Refused) })
	if err := c.leader().Remove("nobody"); !fail.Is(err, fail.NotFound) {
		t.Errorf("removed nobody: %v", err)
	}
	if err := c.leader().Remove(c.leader().member.id); !fail.Is(err, fail.Refused) {
		t.Errorf("removed the leader: %v", err)
	}
}

// TestTransfer hands the lead over.
func TestTransfer(t *testing.T) {
	c := newClusterTest(t, 3)
	c.form()
	was := c.index(c.leader())
	to := (was + 1) % 3
	if err := c.leader().Transfer(c.addrs[to]); err != nil {
		t.Fatal(err)
	}
	c.await("the new leader", func() bool { return c.members[to].Leads() && !c.members[was].Leads() })
	c.write(5)
	c.equal()
}
