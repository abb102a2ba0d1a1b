package uploader

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"net"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/zeebo/xxh3"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/transport"
)

// sender is an agent with one stream.
type sender struct {
	t     *testing.T
	conn  *transport.Conn
	id    uuid.UUID
	lease change.Lease
	at    change.Point
}

func (r *rig) sender(pitr string) *sender {
	t := r.t
	s := &sender{t: t, id: uuid.New()}
	for !r.j.Leads() {
		time.Sleep(time.Millisecond)
	}
	if _, err := r.j.Propose(state.KindGroupPut, state.Group{Name: "g", Ack: "local", PITR: pitr}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.j.Propose(state.KindStreamCreate, state.Stream{ID: s.id, Group: "g", Agent: "a"}); err != nil {
		t.Fatal(err)
	}
	return r.connect(s)
}

// connect attaches the sender's stream.
func (r *rig) connect(s *sender) *sender {
	t := r.t
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { _ = r.j.Serve(ctx, l); close(done) }()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s.conn = transport.NewConn(raw, time.Second)
	t.Cleanup(func() { s.conn.Close(); cancel(); <-done })
	s.say(change.MsgHello, change.Encode(change.Hello{Agent: "a"}))
	s.say(change.MsgAttach, change.Encode(change.Attach{Stream: s.id}))
	var at change.Attached
	s.hear(change.MsgAttached, &at, func() bool { return true })
	if s.lease = at.Lease; at.Error != nil {
		t.Fatal(at.Error)
	}
	return s
}

func (s *sender) say(typ change.MessageType, parts ...[]byte) {
	s.t.Helper()
	if err := s.conn.Send(uint16(typ), parts...); err != nil {
		s.t.Fatal(err)
	}
}

// hear takes messages until one of the type is as it is to be.
func (s *sender) hear(want change.MessageType, v any, ok func() bool) {
	s.t.Helper()
	for {
		typ, b, err := s.conn.Recv()
		if err != nil {
			s.t.Fatal(err)
		}
		if change.MessageType(typ) == want {
			if err := change.Decode(b, v); err != nil {
				s.t.Fatal(err)
			}
			if ok() {
				return
			}
		}
	}
}

// frame encodes the next frame of the stream.
func (s *sender) frame(changes ...change.Change) []byte {
	h := change.Header{Stream: s.id, FirstLSN: s.at.LSN + 1, Prev: s.at.Hash, FirstTime: 1, LastTime: 1,
		Epoch: s.lease.Epoch, Lease: s.lease.Number}
	e := change.Encoder{Codec: change.CodecS2}
	b, hash := e.Encode(&h, changes)
	s.at = change.Point{LSN: h.LastLSN, Hash: hash}
	return bytes.Clone(b)
}

// send has the journal accept a frame.
func (s *sender) send(b []byte) {
	s.t.Helper()
	a := change.Append{Stream: s.id, Lease: s.lease,
		Items: []change.AppendItem{{Header: b[:change.HeaderBytes], Body: b[change.HeaderBytes:]}}}
	s.say(change.MsgAppend, a.Parts()...)
	var ack change.Ack
	s.hear(change.MsgAck, &ack, func() bool {
		if ack.Fault != nil {
			s.t.Fatal(ack.Fault)
		}
		return ack.Committed == s.at
	})
}

func block(value byte) change.Change {
	data := make([]byte, 8192)
	for i := range data {
		data[i] = value * byte(i*i>>3)
	}
	return change.Change{Kind: change.Write, Volume: 1, Len: uint32(len(data)), Data: [][]byte{data}}
}

// runFolding starts an uploader that folds whatever it may.
func (r *rig) runFolding() (u *Uploader, stop func() error) {
	u = New(Options{Target: "x", Journal: r.j, Term: r.j.Term(), FoldFromBytes: -1,
		Store: objstore.WithRetry(r.store, objstore.Policy{Retryable: Retryable})})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	return u, func() error { cancel(); return <-done }
}

// kinds lists the entries of a stream in the target's log.
func (r *rig) kinds(id uuid.UUID) (frames, folds int, covers uint32) {
	for pos := uint64(1); pos < r.j.Target("x").Position; pos++ {
		x, err := objlog.ReadIndex(context.Background(), r.store, pos)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, e := range x.Entries {
			switch {
			case e.Stream != id:
			case e.Kind == segment.FoldEntry:
				folds, covers = folds+1, covers+e.Covers
			default:
				frames++
			}
		}
	}
	return frames, folds, covers
}

// TestFolds: a run is one fold, cut at a frame with a mark, which stays as it is; a
// group that wants every write has none. What a writer before had created, folded, is
// adopted.
func TestFolds(t *testing.T) {
	for pitr, want := range map[string][2]int{state.PITRFold: {1, 2}, state.PITREveryWrite: {13, 0},
		"a later release's": {13, 0}} {
		t.Run(pitr, func(t *testing.T) {
			r := newRig(t)
			s := r.sender(pitr)
			for i := range 12 {
				s.send(s.frame(block(byte(i))))
				if i == 7 {
					s.send(s.frame(block(99), change.Change{Kind: change.Mark, Data: [][]byte{[]byte("b")}}))
				}
			}
			u, stop := r.runFolding()
			r.await()
			frames, folds, covers := r.kinds(s.id)
			if frames != want[0] || folds != want[1] || frames+int(covers) != 13 {
				t.Errorf("%d frames, %d folds of %d", frames, folds, covers)
			}
			if st := u.Status(); (st.FoldedFrom > 0) != (folds > 0) || st.FoldedTo > st.FoldedFrom {
				t.Errorf("%+v", st)
			}
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestAdoptsFolds: an object with folds that was created, and not committed as
// uploaded, is taken over by the next writer.
func TestAdoptsFolds(t *testing.T) {
	r := newRig(t)
	s := r.sender(state.PITRFold)
	_, stop := r.runFolding()
	r.await()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		s.send(s.frame(block(byte(i))))
	}
	before := r.j.Target("x")
	u := New(Options{Target: "x", Journal: r.j, Term: r.j.Term(), FoldFromBytes: -1, Store: r.store})
	u.token, u.pos, u.next = before.Token, before.Position, before.Index+1 // the same writer, a moment ago
	if err := u.collect(); err != nil {
		t.Fatal(err)
	}
	ob, err := u.build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.store.Create(t.Context(), objlog.ObjectName(ob.pos), ob.body); err != nil {
		t.Fatal(err)
	}
	s.conn.Close()
	if err := r.j.Close(); err != nil {
		t.Fatal(err)
	}
	r.open()
	_, stop = r.runFolding()
	r.propose(1)
	r.await()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, folds, covers := r.kinds(s.id); folds != 1 || covers != 5 {
		t.Errorf("%d folds of %d frames", folds, covers)
	}
}

// TestDamagedFrame: a frame whose block does not fit the checksum made beside the
// write is uploaded as it is. Whoever restores it will say so; the log goes on.
func TestDamagedFrame(t *testing.T) {
	r := newRig(t)
	s := r.sender(state.PITRFold)
	b := s.frame(block(1))
	b[change.HeaderBytes+24+8] ^= 1 // of the block table: the checksum
	sum := xxh3.Hash128(b[change.HeaderBytes:]).Bytes()
	copy(b[120:], sum[:])
	binary.LittleEndian.PutUint32(b[156:], crc32.Checksum(b[:156], crc32.MakeTable(crc32.Castagnoli)))
	_, hash, err := change.ParseHeader(b)
	if err != nil {
		t.Fatal(err)
	}
	s.at.Hash = hash
	s.send(b)
	elsewhere := block(2)
	elsewhere.Off = 1 << 20
	s.send(s.frame(elsewhere))
	u, stop := r.runFolding()
	r.await()
	if frames, folds, _ := r.kinds(s.id); frames != 2 || folds != 0 || u.Status().Stopped {
		t.Errorf("%d frames, %d folds, %+v", frames, folds, u.Status())
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
