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
	if err := f.host.syncLog(); err != nil { // a snapshot must not be ahead of the log
		return nil, err
	}
	if err := f.db.LogData(nil, pebble.Sync); err != nil {
		return nil, fail.Wrap(fail.Internal, "sync", "journal state", err)
	}
	s := &fsmSnapshot{snap: f.db.NewSnapshot()}
	if f.copied > 0 { // f.mu is not needed: Raft calls this from the one goroutine that writes
		s.frame, s.release = f.host.frame, f.host.holdLog()
	}
	return s, nil
}

// fsmSnapshot is the FSM's keys at one Raft index. Where other members may ask for
// it, it has the bytes of every frame too.
type fsmSnapshot struct {
	snap    *pebble.Snapshot
	frame   func(e *Entry) ([]byte, error)
	release func()
}

// whole returns an index value with its frame.
func (s *fsmSnapshot) whole(key, v []byte) ([]byte, error) {
	if s.frame == nil || len(key) != 9 || key[0] != keyFrame[0] || len(v) == 0 || v[0] == tagCommand {
		return v, nil
	}
	e, err := parseEntry(binary.BigEndian.Uint64(key[1:]), v)
	if err != nil {
		return nil, err
	}
	frame, err := s.frame(&e)
	if err != nil {
		return nil, err
	}
	return append(append(make([]byte, 0, appendedHead+len(frame)), tagAppend, 0, 0, 0, 0, 0, 0, 0, 0), frame...), nil
}

// Persist writes every key but Raft's own: 4-byte key length, 4-byte value
// length, key, value.
func (s *fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	it, err := s.snap.NewIter(&pebble.IterOptions{UpperBound: keyStable})
	if err == nil {
		for ok := it.First(); ok && err == nil; ok = it.Next() {
			var n [8]byte
			var v []byte
			if v, err = s.whole(it.Key(), it.Value()); err != nil {
				break
			}
			binary.LittleEndian.PutUint32(n[:], uint32(len(it.Key())))
			binary.LittleEndian.PutUint32(n[4:], uint32(len(v)))
			_, err = sink.Write(append(append(n[:], it.Key()...), v...))
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

// Release ends the hold on Raft's log.
func (s *fsmSnapshot) Release() {
	_ = s.snap.Close()
	if s.release != nil {
		s.release()
	}
}

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
	err := f.load()
	id := f.id.Journal
	f.mu.Unlock()
	if err != nil { // of a later release: a part of it is loaded, and nothing may be answered from that
		f.host.fatal(err)
		return err
	}
	f.host.named(id)
	return nil
}
