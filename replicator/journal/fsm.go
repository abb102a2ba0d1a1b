package journal

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/google/uuid"
	"github.com/hashicorp/raft"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
)

// A Raft entry's data begins with what it is.
const (
	tagCommand  = 'C' // a command envelope
	tagAppend   = 'A' // an append message
	tagUploaded = 'U' // JSON of Uploaded
	tagLazy     = 'u' // the same; see unsynced
	tagTarget   = 'T' // JSON of targetPut
	tagIdentity = 'J' // JSON of identity: from here on frames carry their bodies
)

// tagLogged begins an index value beside tagCommand and tagAppend: a frame whose
// bytes are in Raft's log.
const tagLogged = 'L'

// fsm is what the log's entries did. All state is in Pebble; mirrors of the small
// part serve reads. Writes come from Raft's one FSM goroutine.
type fsm struct {
	db *pebble.DB

	mu             sync.RWMutex
	applied        uint64 // Raft index
	durableApplied uint64 // newest applied index whose entry was durable before it counted; see unsynced
	next           uint64 // journal index
	state          *state.State
	points         map[change.StreamID]change.Point
	targets        map[string]*Target
	durable        map[string]map[change.StreamID]change.Point // target -> stream -> what it holds
	floor          uint64                                      // frame index entries below are gone
	recent         recent                                      // the newest entries once more
	id             identity                                    // zero until a new member knows
	copied         uint64                                      // Raft index since which frames carry bodies; 0: never
	lastRef        uint64                                      // journal index of the newest frame by reference
	news           news                                        // which keys of state changed
	backlog        backlog                                     // bytes of the frames from floor on

	stopped error // an entry of a later release came; nothing is applied from there on
	host    fsmHost
	log     *slog.Logger

	beforeApply func(l *raft.Log) // a test's, else nil
}

// result is what Apply returns to the proposer.
type result struct {
	point change.Point // of an append: where the stream stands
	index uint64       // of a command: its journal index
	err   error
}

var _ raft.BatchingFSM = (*fsm)(nil)

func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch applies entries and commits their effects together with the
// applied index. The commit is not synced: what a crash loses is in the Raft log,
// and is applied again.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	b := f.db.NewBatch()
	defer b.Close()
	f.mu.Lock()
	out, err := f.applyAll(b, logs)
	if err == nil {
		f.putApplied(b)
		err = b.Commit(pebble.NoSync)
	}
	id := f.id.Journal
	f.mu.Unlock()
	f.host.named(id)
	if err != nil {
		f.host.fatal(fail.Wrap(fail.Internal, "commit", "journal state", err))
	}
	f.host.changed()
	return out
}

// applyAll applies entries to the mirrors and to b. One that panics may have done a
// part of what it does, so nothing of the batch counts: the mirrors are read from
// Pebble again, and the batch begins anew. If it was a mirror's fault, this member's
// alone, that mends it; one that panics once more is refused: all members run the same
// code on the same state, and so all refuse it.
func (f *fsm) applyAll(b *pebble.Batch, logs []*raft.Log) ([]any, error) {
	var refused map[uint64]error
	again := uint64(0) // the entry that is tried once more
	for {
		out, at, poison := f.tryAll(b, logs, refused)
		if poison == nil {
			return out, nil
		}
		if refused == nil {
			refused = map[uint64]error{}
		}
		if at == again {
			refused[at] = poison
		}
		again = at
		b.Reset()
		if err := f.load(); err != nil {
			return out, err
		}
	}
}

// tryAll applies entries in order. It stops at the first one that panics, and
// returns its Raft index and what is said of it.
func (f *fsm) tryAll(b *pebble.Batch, logs []*raft.Log, refused map[uint64]error) (out []any, at uint64, poison error) {
	out = make([]any, len(logs))
	for i, l := range logs {
		if l.Index <= f.applied {
			out[i] = result{err: fail.New(fail.Internal, "apply", "Raft entry", "applied before")}
			continue
		}
		switch err := refused[l.Index]; {
		case err != nil:
			f.record(b, l, err)
			out[i] = result{err: err}
		case l.Type == raft.LogCommand && f.stopped == nil:
			if out[i], poison = f.applySafely(b, l); poison != nil {
				return out, l.Index, poison
			}
		}
		if f.stopped != nil {
			out[i] = result{err: f.stopped}
			continue
		}
		f.applied = l.Index
		if !unsynced(l) {
			f.durableApplied = l.Index
		}
	}
	return out, 0, nil
}

// applySafely is applyOne; a panic of it becomes poison.
func (f *fsm) applySafely(b *pebble.Batch, l *raft.Log) (r result, poison error) {
	defer func() {
		if p := recover(); p != nil {
			entry := fmt.Sprintf("Raft entry %d", l.Index)
			poison = fail.New(fail.Internal, "apply", entry, "it cannot be applied, and is refused").
				WithHint("this is a fault of pollux: report it, with the journal's log")
			f.log.Error("applying an entry panicked: it is refused, and the journal goes on",
				"raft_index", l.Index, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	if f.beforeApply != nil {
		f.beforeApply(l)
	}
	return f.applyOne(b, l), nil
}

// record puts a refused entry into the audit, alike on every member.
func (f *fsm) record(b *pebble.Batch, l *raft.Log, err error) {
	what := "entry"
	if len(l.Data) > 0 && l.Data[0] == tagCommand {
		if kind, _, err := state.Open(l.Data[1:]); err == nil {
			what = kind.String()
		}
	}
	e := state.Audit{Time: l.AppendedAt.UTC(), Who: "journal", Host: "every member", Verb: what,
		Request: json.RawMessage("null"), Outcome: err.Error()}
	f.applyCommand(b, state.Encode(state.KindAudit, e))
}

// rewind takes back the applied index to last, the newest entry of Raft's log,
// where only lazy entries are missing there. What they did stays: it is true of
// the store, whether Raft remembers it or not.
func (f *fsm) rewind(last uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.applied <= last || f.durableApplied > last {
		return nil
	}
	f.applied = last
	b := f.db.NewBatch()
	defer b.Close()
	f.putApplied(b)
	return fail.Wrap(fail.Internal, "commit", "journal state", b.Commit(pebble.Sync))
}

func (f *fsm) putApplied(b *pebble.Batch) {
	v := binary.LittleEndian.AppendUint64(make([]byte, 0, 24), f.applied)
	v = binary.LittleEndian.AppendUint64(v, f.next)
	v = binary.LittleEndian.AppendUint64(v, f.floor)
	_ = b.Set(keyApplied, v, nil) // a batch's Set does not fail
	_ = b.Set(keyFirm, binary.LittleEndian.AppendUint64(make([]byte, 0, 8), f.durableApplied), nil)
}

func (f *fsm) applyOne(b *pebble.Batch, l *raft.Log) result {
	data := l.Data
	if len(data) == 0 {
		return result{err: fail.New(fail.Damaged, "apply", "Raft entry", "empty")}
	}
	body := data[1:]
	switch data[0] {
	case tagCommand:
		return f.applyCommand(b, body)
	case tagAppend:
		return f.applyAppend(b, l)
	case tagUploaded, tagLazy:
		return f.applyUploaded(b, body)
	case tagTarget:
		return f.applyTargets(b, body)
	case tagIdentity:
		return f.applyIdentity(b, l)
	}
	err := fail.New(fail.Unsupported, "apply", "Raft entry", fmt.Sprintf("tag %q", data[0]))
	f.stop(err)
	return result{err: err}
}

// stop ends the journal at an entry of a later release, before it counts as
// applied: going on would make this member's state differ, now or after the
// upgrade.
func (f *fsm) stop(err error) {
	f.stopped = err
	f.host.fatal(err)
}

func (f *fsm) applyCommand(b *pebble.Batch, data []byte) result {
	kind, body, err := state.Open(data)
	var changed []string
	var gap state.ResyncBegin
	switch {
	case err != nil:
	case kind == state.KindResyncBegin:
		err = f.checkGap(body, &gap)
	case kind == state.KindResyncEnd:
		err = f.checkResyncEnd(body)
	}
	if err == nil {
		changed, err = f.state.Apply(kind, body)
	}
	if fail.Is(err, fail.Unsupported) {
		f.stop(err)
	}
	if err != nil {
		return result{err: err}
	}
	for _, key := range changed {
		if k, v := append(append([]byte{}, keyControl...), key...), f.state.Save(key); v != nil {
			_ = b.Set(k, v, nil)
		} else {
			_ = b.Delete(k, nil)
		}
		f.news.add(key)
	}
	if kind == state.KindResyncBegin {
		f.keepPoint(b, gap.Stream, gap.To)
	}
	return result{index: f.index(b, append([]byte{tagCommand}, data...), nil)}
}

// checkGap refuses a gap that does not begin where the stream ends.
func (f *fsm) checkGap(body []byte, r *state.ResyncBegin) error {
	if err := json.Unmarshal(body, r); err != nil {
		return fail.Wrap(fail.Damaged, "decode", state.KindResyncBegin.String(), err)
	}
	if at := f.points[r.Stream]; at != r.From {
		return fail.New(fail.Fenced, "resync", r.Stream.String(),
			fmt.Sprintf("the gap begins at %v, the stream ends at %v", r.From, at))
	}
	return nil
}

// checkResyncEnd refuses an end that the stream has not reached: until it has, there
// would be no point, and nothing says so.
func (f *fsm) checkResyncEnd(body []byte) error {
	var r state.ResyncEnd
	if err := json.Unmarshal(body, &r); err != nil {
		return fail.Wrap(fail.Damaged, "decode", state.KindResyncEnd.String(), err)
	}
	if at := f.points[r.Stream]; r.LSN > at.LSN {
		return fail.New(fail.Refused, "end resync", r.Stream.String(),
			fmt.Sprintf("at LSN %d, the stream ends at %v", r.LSN, at))
	}
	return nil
}

// index gives an accepted entry the next journal index. frame is its bytes where
// the entry does not have them, and they are at hand.
func (f *fsm) index(b *pebble.Batch, entry, frame []byte) uint64 {
	n := f.next
	f.next++
	_ = b.Set(frameKey(n), entry, nil)
	f.recent.add(n, entry, frame)
	return n
}

// applyIdentity names the journal, once for all, and ends references: other
// members could not follow them.
func (f *fsm) applyIdentity(b *pebble.Batch, l *raft.Log) result {
	var id identity
	if err := json.Unmarshal(l.Data[1:], &id); err != nil {
		return result{err: fail.Wrap(fail.Damaged, "apply", "identity", err)}
	}
	if f.id.Journal != uuid.Nil && f.id.Journal != id.Journal {
		return result{err: fail.New(fail.Refused, "apply", "identity", "the journal is "+f.id.Journal.String())}
	}
	if f.id.Journal == uuid.Nil {
		f.id = id
		_ = b.Set(keyIdentity, mustJSON(id), nil)
	}
	if f.copied == 0 {
		f.copied = l.Index
		// Up to lastRef only one member can read what it has: all must know.
		v := binary.LittleEndian.AppendUint64(nil, f.copied)
		_ = b.Set(keyCopied, binary.LittleEndian.AppendUint64(v, f.lastRef), nil)
	}
	return result{}
}

// applyAppend accepts the frames that continue their stream, all of them or none. A
// frame that was accepted before succeeds; anything else that does not continue it
// is refused.
func (f *fsm) applyAppend(b *pebble.Batch, l *raft.Log) result {
	a, err := change.ParseAppend(l.Data[1:])
	if err != nil {
		return result{err: err}
	}
	at := f.points[a.Stream]
	st := f.state.Streams[a.Stream]
	if st == nil {
		return result{point: at, err: fail.New(fail.NotFound, "append to", a.Stream.String(), "no such stream")}
	}
	if a.Lease != st.Lease {
		return result{point: at, err: fail.New(fail.Fenced, "append to", "group "+st.Group,
			fmt.Sprintf("lease %d of epoch %d was superseded by %d of epoch %d",
				a.Lease.Number, a.Lease.Epoch, st.Lease.Number, st.Lease.Epoch)).
			WithHint("another agent, or a newer session of this one, has taken the stream over")}
	}
	if f.state.HandedOver() {
		return result{point: at, err: fail.At("append to", "group "+st.Group, state.ErrHandedOver(f.state.HandOver.To))}
	}
	fresh, end, err := a.Fresh(at)
	for i := range fresh {
		if err == nil && fresh[i].Item.Body == nil && f.copied > 0 {
			err = fail.New(fail.Retry, "append to", "", "frames by reference, which this journal no longer takes")
		}
	}
	if err != nil {
		return result{point: at, err: fail.At("append to", "group "+st.Group, err)}
	}
	for i := range fresh {
		f.indexFrame(b, l, fresh[i].Item)
		f.backlog.add(f.next-1, int64(fresh[i].Bytes))
	}
	f.keepPoint(b, a.Stream, end)
	return result{point: end}
}

func (f *fsm) keepPoint(b *pebble.Batch, id change.StreamID, at change.Point) {
	f.points[id] = at
	_ = b.Set(pointKey(id), putPoint(at), nil)
}

// indexFrame indexes an accepted frame by where its bytes are:
//
//	'A' 8 the agent's WAL index, header: in that agent's WAL
//	'A' 8 zero, header, body:            here (of a snapshot)
//	'L' 8 Raft index, 4 offset in that entry's data, header: in Raft's log
func (f *fsm) indexFrame(b *pebble.Batch, l *raft.Log, it *change.AppendItem) {
	e := make([]byte, 0, loggedHead+len(it.Header))
	if it.Body == nil {
		e = binary.LittleEndian.AppendUint64(append(e, tagAppend), it.Ref)
		f.lastRef = f.index(b, append(e, it.Header...), nil)
		return
	}
	off := 1 + it.Offset
	e = binary.LittleEndian.AppendUint64(append(e, tagLogged), l.Index)
	e = binary.LittleEndian.AppendUint32(e, uint32(off))
	f.index(b, append(e, it.Header...), l.Data[off:off+len(it.Header)+len(it.Body)])
}

const (
	appendedHead = 9  // before the header in an 'A'
	loggedHead   = 13 // and in an 'L'
)
