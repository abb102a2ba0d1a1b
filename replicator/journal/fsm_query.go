package journal

import (
	"encoding/binary"
	"maps"

	"github.com/cockroachdb/pebble/v2"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
)

// What the rest of the package asks the FSM. The questions take the lock themselves,
// and values that must agree are answered together; whoever needs several of one
// moment asks inside read. No other file than fsm*.go takes the lock or reads what it
// guards, which TestFSMIsAsked holds.

// view is the FSM while its lock is held for reading.
type view struct{ fsm *fsm }

// read calls fn with the FSM as it stands. Nothing is applied until fn returns: it must
// be quick, must not call the FSM in another way, and keeps nothing that the view shares.
func (f *fsm) read(fn func(view)) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	fn(view{f})
}

// state is the control state itself, to be neither kept nor changed.
func (v view) state() *state.State { return v.fsm.state }

// points are where the streams end, to be neither kept nor changed.
func (v view) points() map[change.StreamID]change.Point { return v.fsm.points }

// ack is where a stream stands, for the agent of a journal with that many voters.
func (v view) ack(id change.StreamID, voters int) change.Ack {
	return change.Ack{Stream: id, Committed: v.fsm.points[id], Released: v.releasedLSN(id),
		Durable: v.fsm.durableLSN(id), Voters: voters, Unsound: v.fsm.state.Streams[id].Resyncing()}
}

// releasedLSN is up to where an agent's WAL is not needed by the journal: what every
// target that counts holds, or all that it accepted once it copies.
func (v view) releasedLSN(id change.StreamID) uint64 {
	if v.fsm.copied > 0 && v.fsm.floor > v.fsm.lastRef {
		return v.fsm.points[id].LSN
	}
	return v.fsm.neededLSN(id)
}

// view calls fn with the control state, which it must neither keep nor change.
func (f *fsm) view(fn func(*state.State)) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	fn(f.state)
}

// level is the journal's feature level.
func (f *fsm) level() int {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.state.Level
}

// figures are the numbers that say how far the FSM has come.
type figures struct {
	id             identity // with the epoch and site of the seat
	applied        uint64   // Raft index
	durableApplied uint64   // newest applied index whose entry was durable before it counted
	copied         uint64   // Raft index from which on frames carry their bodies; 0: they do not
	last           uint64   // journal index of the newest entry
	floor          uint64   // journal index of the first entry that is still held
	backlogBytes   int64    // of the frames from floor on
}

func (v view) figures() figures {
	f, id := v.fsm, v.fsm.id
	// Else those that it was born with, or has inherited and not said yet.
	if seat := f.state.Seat; seat.Epoch > 0 && seat.Epoch >= id.Epoch {
		id.Epoch, id.Site = seat.Epoch, seat.Site
	}
	return figures{id: id, applied: f.applied, durableApplied: f.durableApplied, copied: f.copied,
		last: f.next - 1, floor: f.floor, backlogBytes: f.backlog.bytes()}
}

// targets is how far each target has come.
func (v view) targets() map[string]Target {
	out := make(map[string]Target, len(v.fsm.targets))
	for name, t := range v.fsm.targets {
		out[name] = *t
	}
	return out
}

func (f *fsm) figures() figures {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return view{f}.figures()
}

// allTargets is how far each target has come.
func (f *fsm) allTargets() map[string]Target {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return view{f}.targets()
}

// target is how far one has come; nothing of one that is not there.
func (f *fsm) target(name string) Target {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if t := f.targets[name]; t != nil {
		return *t
	}
	return Target{}
}

// targetPoints is where each stream stands in a target.
func (f *fsm) targetPoints(name string) map[change.StreamID]change.Point {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return maps.Clone(f.durable[name])
}

// point is where a stream ends.
func (f *fsm) point(id change.StreamID) change.Point {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.points[id]
}

// remoteLSN is the LSN up to which every remote target holds a stream.
func (f *fsm) remoteLSN(id change.StreamID) uint64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.durableLSN(id)
}

// lastIndex is the journal index of the newest entry.
func (f *fsm) lastIndex() uint64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.next - 1
}

// firstIndex is the journal index of the first entry that is still held.
func (f *fsm) firstIndex() uint64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.floor
}

// backlogAfter is the bytes of the frames after an index, to about a stepBytes.
func (f *fsm) backlogAfter(index uint64) int64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.backlog.after(index)
}

// recentFrom returns the entries from an index on, if they are all in memory; none
// says that there are none yet. What it returns is never changed.
func (f *fsm) recentFrom(index uint64) (entries []indexed, ok, none bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	entries, ok = f.recent.from(index)
	return entries, ok, index >= f.next
}

// overdue finds an optional target that no required target needs, and for which more
// than limit is kept: the bytes of what it lacks, and of what is held for it alone.
func (f *fsm) overdue(limit int64) (name string, lacks, held int64) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	low, required := f.next, false
	for _, t := range f.targets {
		if t.Required && t.LetGo == nil {
			low, required = min(low, t.needs()), true
		}
	}
	if !required {
		return "", 0, 0
	}
	for n, t := range f.targets {
		if t.Required || t.needs() >= low || name != "" && n > name {
			continue
		}
		all := f.backlog.after(t.needs() - 1)
		if alone := all - f.backlog.after(low-1); alone > limit {
			name, lacks, held = n, all, alone
		}
	}
	return name, lacks, held
}

// updateKeys and updateBytes bound one StateUpdate.
const (
	updateKeys  = 512
	updateBytes = 4 << 20
)

// updates are the keys of the control state that an agent's copy must have, in bounded
// messages: those that changed from a number on, up to which the copy has read, or all
// of them, where known is false. The next number is end.
func (f *fsm) updates(agent string, level int, from uint64) (updates []change.StateUpdate, end uint64, known bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	keys, known := f.news.since(from)
	if !known {
		keys = f.state.Keys()
	}
	bytes, n := updateBytes, 0
	for _, k := range keys {
		v, ok := f.state.SaveFor(agent, k)
		if !ok || state.KeyLevel(k) > level { // a copy of an earlier release has no place for it
			continue
		}
		if n++; n%updateKeys == 1 || bytes+len(v) > updateBytes {
			updates, bytes = append(updates, change.StateUpdate{}), 0
		}
		u := &updates[len(updates)-1]
		u.Keys = append(u.Keys, change.StateKey{Key: k, Value: v})
		bytes += len(v)
	}
	return updates, f.news.end(), known
}

// retain is the Raft index from which on bytes of the log are needed; what the answer
// is based on is made durable, so that no crash takes it back.
func (f *fsm) retain() (uint64, error) {
	keep, err := f.firstLogged()
	if err == nil {
		err = fail.Wrap(fail.Internal, "sync", "journal state", f.db.LogData(nil, pebble.Sync))
	}
	return keep, err
}

// firstLogged is the Raft index of the oldest entry whose frames not every target
// has, 0 where there is none.
func (f *fsm) firstLogged() (uint64, error) {
	it, err := f.db.NewIter(&pebble.IterOptions{LowerBound: frameKey(f.firstIndex()), UpperBound: prefixEnd(keyFrame)})
	if err != nil {
		return 0, fail.Wrap(fail.Internal, "read", "journal index", err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if v := it.Value(); len(v) > loggedHead && v[0] == tagLogged {
			return binary.LittleEndian.Uint64(v[1:]), nil
		}
	}
	return 0, fail.Wrap(fail.Internal, "read", "journal index", it.Error())
}
