package journal

import (
	"encoding/binary"
	"encoding/json"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
)

// load fills the mirrors from Pebble.
func (f *fsm) load() error {
	f.state = state.New()
	f.points = map[change.StreamID]change.Point{}
	f.targets = map[string]*Target{}
	f.durable = map[string]map[change.StreamID]change.Point{}
	f.applied, f.next, f.floor, f.durableApplied, f.recent = 0, 1, 1, 0, recent{}
	f.copied, f.lastRef, f.backlog, f.id = 0, 0, backlog{}, identity{}
	f.news.restart()
	v, err := get(f.db, keyApplied)
	if err != nil {
		return err
	}
	if len(v) == 24 {
		f.applied, f.next = binary.LittleEndian.Uint64(v), binary.LittleEndian.Uint64(v[8:])
		f.floor = binary.LittleEndian.Uint64(v[16:])
		f.durableApplied = f.applied
	}
	if v, err = get(f.db, keyFirm); err != nil {
		return err
	}
	if len(v) == 8 { // else of a time when all entries were firm
		f.durableApplied = min(f.durableApplied, binary.LittleEndian.Uint64(v))
	}
	if v, err = get(f.db, keyIdentity); err != nil {
		return err
	}
	if v != nil {
		if err := json.Unmarshal(v, &f.id); err != nil {
			return fail.Wrap(fail.Damaged, "load", "journal identity", err)
		}
	}
	if v, err = get(f.db, keyCopied); err != nil {
		return err
	}
	if len(v) == 16 {
		f.copied, f.lastRef = binary.LittleEndian.Uint64(v), binary.LittleEndian.Uint64(v[8:])
	}
	if err := scan(f.db, keyFrame, func(k, v []byte) error {
		if len(k) == 8 {
			f.countFrame(binary.BigEndian.Uint64(k), v)
		}
		return nil
	}); err != nil {
		return err
	}
	if err := scan(f.db, keyControl, func(k, v []byte) error { return f.state.Load(string(k), v) }); err != nil {
		return err
	}
	if err := scan(f.db, keyPoint, func(k, v []byte) error {
		var id change.StreamID
		copy(id[:], k)
		f.points[id], err = parsePoint(v)
		return err
	}); err != nil {
		return err
	}
	if err := scan(f.db, keyTarget, func(k, v []byte) error {
		t := &Target{}
		f.targets[string(k)], f.durable[string(k)] = t, map[change.StreamID]change.Point{}
		return json.Unmarshal(v, t)
	}); err != nil {
		return err
	}
	return scan(f.db, keyDurable, func(k, v []byte) error {
		n := len(k) - 17 // <target>/<stream>
		if n < 1 || f.durable[string(k[:n])] == nil {
			return fail.New(fail.Damaged, "read", "journal state", fmt.Sprintf("key d/%q", k))
		}
		var id change.StreamID
		copy(id[:], k[n+1:])
		f.durable[string(k[:n])][id], err = parsePoint(v)
		return err
	})
}

// scan calls fn with each key that begins with prefix, without it, and its value.
func scan(db *pebble.DB, prefix []byte, fn func(key, value []byte) error) error {
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: prefixEnd(prefix)})
	if err != nil {
		return fail.Wrap(fail.Internal, "read", "journal state", err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if err := fn(it.Key()[len(prefix):], it.Value()); err != nil {
			return err
		}
	}
	return fail.Wrap(fail.Internal, "read", "journal state", it.Error())
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
