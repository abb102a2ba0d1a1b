package journal

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/raft"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/pki"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/transport"
)

// volumeOf is a command of a volume in the test's group.
func (c *clusterTest) volumeOf(name string) state.Volume {
	return state.Volume{Name: name, Group: "g", Stream: c.stream, Agent: "a", SizeBytes: 4096, Backing: "/" + name}
}

// TestPoison: an entry that panics whenever it is applied is refused by every member, is
// in the audit, leaves nothing behind, and the journal goes on.
func TestPoison(t *testing.T) {
	c := newClusterTest(t, 3)
	c.form()
	c.write(2)
	poison := state.Encode(state.KindVolumeCreate, c.volumeOf("poison"))
	for _, j := range c.members { // no command panics: this one stands for a fault that nobody has found
		alterFSM(j, func(f *fsm) {
			f.beforeApply = func(l *raft.Log) {
				if bytes.HasSuffix(l.Data, poison) {
					f.state.Volumes["half"] = &state.Volume{Name: "half"}
					panic("poison")
				}
			}
		})
	}
	if _, err := c.leader().Propose(state.KindVolumeCreate, c.volumeOf("poison")); !fail.Is(err, fail.Internal) {
		t.Fatalf("the poisoned command: %v", err)
	}
	c.write(3)
	if _, err := c.leader().Propose(state.KindVolumeCreate, c.volumeOf("v")); err != nil {
		t.Errorf("another one: %v", err)
	}
	c.equal()
	for i, j := range c.members {
		j.View(func(s *state.State) {
			if a := s.Audits[1]; len(s.Audits) != 1 || a.Verb != "volume-create" ||
				a.Who != "journal" || a.Time.IsZero() {
				t.Errorf("member %d has audits %+v", i, s.Audits)
			}
			if len(s.Volumes) != 1 || s.Volumes["v"] == nil {
				t.Errorf("member %d has volumes %v", i, s.Volumes)
			}
		})
	}
	i := c.index(c.leader())
	c.stop(i)
	c.start(i)
	c.write(1)
	c.equal()
}

// TestMirrorHeals: a fault of one member's memory alone makes that member read its state
// again, and apply what the others applied.
func TestMirrorHeals(t *testing.T) {
	c := newClusterTest(t, 3)
	c.form()
	c.write(2)
	ill := c.members[(c.index(c.leader())+1)%3]
	c.await("the group", func() bool { return ill.Point(c.stream) == c.at })
	alterFSM(ill, func(f *fsm) { f.state.Volumes["broken"] = nil })
	if _, err := c.leader().Propose(state.KindVolumeCreate, c.volumeOf("v")); err != nil {
		t.Fatal(err)
	}
	c.write(1)
	c.equal()
	ill.View(func(s *state.State) {
		if len(s.Audits) != 0 || len(s.Volumes) != 1 || s.Volumes["v"] == nil {
			t.Errorf("audits %v, volumes %v", s.Audits, s.Volumes)
		}
	})
}

// frameOf is a frame of one write that follows a point.
func (c *clusterTest) frameOf(id change.StreamID, at change.Point) (change.AppendItem, change.Point) {
	h := change.Header{Stream: id, FirstLSN: at.LSN + 1, Prev: at.Hash, FirstTime: 1, LastTime: 1}
	write := change.Change{Kind: change.Write, Volume: 1, Len: 4096, Data: [][]byte{make([]byte, 4096)}}
	b, hash := c.enc.Encode(&h, []change.Change{write})
	b = bytes.Clone(b)
	it := change.AppendItem{Header: b[:change.HeaderBytes], Body: b[change.HeaderBytes:]}
	return it, change.Point{LSN: h.LastLSN, Hash: hash}
}

// TestAppendAsOne: an append of which one frame is wrong leaves nothing of it, whether
// it comes from an agent or is in Raft's log already.
func TestAppendAsOne(t *testing.T) {
	c := newClusterTest(t, 1)
	c.form()
	c.write(2)
	j := c.leader()
	good, next := c.frameOf(c.stream, c.at)
	foreign, _ := c.frameOf(uuid.New(), change.Point{})
	early, _ := c.frameOf(c.stream, change.Point{LSN: next.LSN + 1})
	for name, last := range map[string]change.AppendItem{
		"of another stream": foreign, "that leaves some out": early, "of another history": func() change.AppendItem {
			it, _ := c.frameOf(c.stream, change.Point{LSN: next.LSN})
			return it
		}(),
	} {
		lease := func() (l change.Lease) {
			j.View(func(s *state.State) { l = s.Streams[c.stream].Lease })
			return l
		}
		a := change.Append{Stream: c.stream, Lease: lease(), Items: []change.AppendItem{good, last}}
		index := j.LastIndex()
		if _, err := j.apply(tagAppend, bytes.Join(a.Parts(), nil)); err == nil {
			t.Errorf("a frame %s is taken", name)
		}
		if j.LastIndex() != index || j.Point(c.stream) != c.at {
			t.Errorf("a frame %s leaves entries %d to %d, point %v", name, index+1, j.LastIndex(), j.Point(c.stream))
		}
		c.sendAppend(a.Items)
		if j.Point(c.stream) != c.at {
			t.Errorf("a frame %s, sent by an agent, leaves point %v", name, j.Point(c.stream))
		}
	}
	c.write(2) // it goes on
}

// sendAppend sends frames as agent a does and waits until it is hung up on.
func (c *clusterTest) sendAppend(items []change.AppendItem) {
	c.t.Helper()
	raw, err := net.Dial("tcp", c.addrs[0])
	if err != nil {
		c.t.Fatal(err)
	}
	conn := transport.NewConn(raw, time.Second)
	defer conn.Close()
	_ = conn.Send(uint16(change.MsgHello), change.Encode(change.Hello{Agent: "a"}))
	if _, _, err := conn.Recv(); err != nil {
		c.t.Fatal(err)
	}
	var at change.Attached
	if err := ask(conn, change.MsgAttach, change.Attach{Stream: c.stream}, change.MsgAttached, &at); err != nil {
		c.t.Fatal(err)
	}
	a := change.Append{Stream: c.stream, Lease: at.Lease, Items: items}
	_ = conn.Send(uint16(change.MsgAppend), a.Parts()...)
	for err == nil {
		_, _, err = conn.Recv()
	}
}

// TestHostileProposals: what only the journal gives is not taken from a peer, and an
// unknown kind stops nobody.
func TestHostileProposals(t *testing.T) {
	c := newClusterTest(t, 1)
	c.form()
	j := c.leader()
	peer := pki.Peer{Role: pki.Agent, Name: "b"}
	id := uuid.New()
	for _, p := range []struct {
		kind state.Kind
		v    any
		want fail.Kind
	}{
		{state.KindGroupPut, state.Group{Name: "e", Owner: "b", Ack: "never"}, fail.Invalid},
		{state.KindStreamCreate,
			state.Stream{ID: id, Group: "g", Agent: "b", Resyncs: []state.Resync{{}}}, fail.Invalid},
		{state.Kind(999), struct{}{}, fail.Unsupported},
		{state.KindFence, state.Fence{}, fail.Unsupported},
		{state.KindLease, state.LeaseGrant{Stream: c.stream, Agent: "a", Epoch: 1}, fail.Denied},
		{state.KindHorizon, state.Horizon{}, fail.Denied},
	} {
		for _, who := range []pki.Peer{peer, pki.Local} {
			err := j.propose(who, &change.Propose{Command: state.Encode(p.kind, p.v)}).Error.Err("", "")
			want := p.want
			if who == peer && !fail.Is(err, want) || who == pki.Local && want != fail.Denied && !fail.Is(err, want) {
				t.Errorf("%v by %v: %v", p.kind, who, err)
			}
		}
	}
	if err := j.Err(); err != nil {
		t.Errorf("the journal ended: %v", err)
	}
	c.write(1)
}
