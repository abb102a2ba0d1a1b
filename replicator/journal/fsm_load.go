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
		f.applied, f.next, f.floor = binary.LittleEndian.Uint64(v), binary.LittleEndian.Uint64(v[8:]), binary.LittleEndian.Uint64(v[16:])
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
	if err := f.scan(keyFrame, func(k, v []byte) error {
		if len(k) == 8 {
			f.countFrame(binary.BigEndian.Uint64(k), v)
		}
		return nil
	}); err != nil {
		return err
	}
	if err := f.scan(keyControl, func(k, v []byte) error { return f.state.Load(string(k), v) }); err != nil {
		return err
	}
	if err := f.scan(keyPoint, func(k, v []byte) error {
		var id change.StreamID
		copy(id[:], k)
		f.points[id], err = parsePoint(v)
		return err
	}); err != nil {
		return err
	}
	if err := f.scan(keyTarget, func(k, v []byte) error {
		t := &Target{}
		f.targets[string(k)], f.durable[string(k)] = t, map[change.StreamID]change.Point{}
		return json.Unmarshal(v, t)
	}); err != nil {
		return err
	}
	return f.scan(keyDurable, func(k, v []byte) error {
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

func (f *fsm) scan(prefix []byte, fn func(key, value []byte) error) error {
	it, err := f.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: prefixEnd(prefix)})
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
