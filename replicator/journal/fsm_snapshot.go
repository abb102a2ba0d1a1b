package journal

import (
	"encoding/binary"
	"io"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Snapshot makes Pebble durable up to here, so that the log may be dropped, and
// captures the FSM's keys.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.RLock()
	stopped := f.stopped
	f.mu.RUnlock()
	if stopped != nil { // Raft would take the rest of the log for applied
		return nil, stopped
	}
	if err := f.syncLog(); err != nil { // a snapshot must not be ahead of the log
		return nil, err
	}
	if err := f.db.LogData(nil, pebble.Sync); err != nil {
		return nil, fail.Wrap(fail.Internal, "sync", "journal state", err)
	}
	return &fsmSnapshot{f.db.NewSnapshot()}, nil
}

type fsmSnapshot struct{ snap *pebble.Snapshot }

// Persist writes every key but Raft's own: 4-byte key length, 4-byte value
// length, key, value.
func (s *fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	it, err := s.snap.NewIter(&pebble.IterOptions{UpperBound: keyStable})
	if err == nil {
		for ok := it.First(); ok && err == nil; ok = it.Next() {
			var n [8]byte
			binary.LittleEndian.PutUint32(n[:], uint32(len(it.Key())))
			binary.LittleEndian.PutUint32(n[4:], uint32(len(it.Value())))
			_, err = sink.Write(append(append(n[:], it.Key()...), it.Value()...))
		}
		if err == nil {
			err = it.Error()
		}
		if cerr := it.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		_ = sink.Cancel()
		return err
	}
	return sink.Close()
}

func (s *fsmSnapshot) Release() { _ = s.snap.Close() }

// Restore replaces the FSM's keys by a snapshot's.
func (f *fsm) Restore(r io.ReadCloser) error {
	defer r.Close()
	b := f.db.NewBatch()
	defer b.Close()
	_ = b.DeleteRange([]byte{0}, keyStable, nil)
	for {
		var n [8]byte
		if _, err := io.ReadFull(r, n[:]); err == io.EOF {
			break
		} else if err != nil {
			return fail.Wrap(fail.Damaged, "restore", "snapshot", err)
		}
		kv := make([]byte, int(binary.LittleEndian.Uint32(n[:]))+int(binary.LittleEndian.Uint32(n[4:])))
		if _, err := io.ReadFull(r, kv); err != nil {
			return fail.Wrap(fail.Damaged, "restore", "snapshot", err)
		}
		k := binary.LittleEndian.Uint32(n[:])
		_ = b.Set(kv[:k], kv[k:], nil)
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return fail.Wrap(fail.Internal, "restore", "snapshot", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.load()
}
