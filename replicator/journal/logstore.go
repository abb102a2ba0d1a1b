package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/wal"
)

// logStore is Raft's log on a wal.Log: Raft's indexes are the WAL's.
//
// Raft's front deletion only moves a mark; retain says below which index bytes
// may really go: none that an uploader still reads.
type logStore struct {
	log        *wal.Log
	firstIndex atomic.Uint64 // FirstIndex as Raft knows it; 0: as the WAL has it
	retain     func() (uint64, error)
	failed     func(error)
	single     atomic.Bool   // this is the only member: lazy entries may be lazy
	busy       atomic.Int64  // since when StoreLogs waits for the disk, by clock.SinceStart; 0: it does not
	crowded    chan struct{} // somebody wants room in the log
	hold       sync.RWMutex  // read-locked while a snapshot copies frames out of the log
	cache      logCache
	buf        []byte
}

var _ raft.LogStore = (*logStore)(nil)

// IsMonotonic keeps Raft from leaving gaps after a snapshot was installed.
func (s *logStore) IsMonotonic() bool { return true }

func (s *logStore) FirstIndex() (uint64, error) {
	first := max(s.firstIndex.Load(), s.log.First())
	if s.log.Last() < first {
		return 0, nil
	}
	return first, nil
}

func (s *logStore) LastIndex() (uint64, error) {
	last := s.log.Last()
	if last < max(s.firstIndex.Load(), s.log.First()) {
		return 0, nil
	}
	return last, nil
}

// raftEntryHead comes before an entry's data:
//
//	0 1 version   1 1 type   2 2 reserved   4 4 extension bytes
//	8 8 index   16 8 term   24 8 appended at, ns
const (
	raftEntryHead    = 32
	raftEntryVersion = 1
)

// raftHead encodes what comes before an entry's data.
func raftHead(b []byte, l *raft.Log) []byte {
	var h [raftEntryHead]byte
	le := binary.LittleEndian
	h[0], h[1] = raftEntryVersion, byte(l.Type)
	le.PutUint32(h[4:], uint32(len(l.Extensions)))
	le.PutUint64(h[8:], l.Index)
	le.PutUint64(h[16:], l.Term)
	if !l.AppendedAt.IsZero() {
		le.PutUint64(h[24:], uint64(l.AppendedAt.UnixNano()))
	}
	return append(append(b, h[:]...), l.Extensions...)
}

func parseRaftLog(b []byte, l *raft.Log) error {
	if len(b) < raftEntryHead {
		return fail.New(fail.Damaged, "decode", "Raft entry", fmt.Sprintf("%d bytes", len(b)))
	}
	if b[0] != raftEntryVersion {
		return fail.New(fail.Unsupported, "decode", "Raft entry", fmt.Sprintf("version %d", b[0]))
	}
	le := binary.LittleEndian
	ext := int(le.Uint32(b[4:]))
	if ext > len(b)-raftEntryHead {
		return fail.New(fail.Damaged, "decode", "Raft entry", fmt.Sprintf("%d extension bytes", ext))
	}
	*l = raft.Log{Type: raft.LogType(b[1]), Index: le.Uint64(b[8:]), Term: le.Uint64(b[16:]),
		Data: b[raftEntryHead+ext:]}
	if ext > 0 {
		l.Extensions = b[raftEntryHead : raftEntryHead+ext]
	}
	if ns := le.Uint64(b[24:]); ns != 0 {
		l.AppendedAt = time.Unix(0, int64(ns))
	}
	return nil
}

func (s *logStore) GetLog(index uint64, l *raft.Log) error {
	if index >= s.firstIndex.Load() && s.cache.get(index, l) {
		return nil
	}
	b, err := s.log.Read(index, nil)
	if fail.Is(err, fail.NotFound) || index < s.firstIndex.Load() {
		return raft.ErrLogNotFound
	}
	if err != nil {
		return err
	}
	return parseRaftLog(b, l)
}

func (s *logStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// unsynced reports whether an entry may count before it is durable in Raft's log. That
// is Uploaded alone, and only with a single voter: it says of the store what the
// store itself says as well, so that a start that finds it missing adopts the
// objects again. It saves one fdatasync per object, beside the one of each append.
// Uploaded is not lazy until the floor has moved once: that the journal no longer
// holds its beginning must not be forgotten.
func unsynced(l *raft.Log) bool {
	return l.Type == raft.LogCommand && len(l.Data) > 0 && l.Data[0] == tagLazy
}

func allLazy(logs []*raft.Log) bool {
	for _, l := range logs {
		if !unsynced(l) {
			return false
		}
	}
	return true
}

// StoreLogs appends durably, unless all of it is lazy. Raft calls it from one
// goroutine at a time.
func (s *logStore) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	if first := logs[0].Index; first != s.log.Last()+1 {
		if s.log.Last() >= s.log.First() && first <= s.log.Last() {
			return fail.New(fail.Internal, "append", "Raft log", fmt.Sprintf("index %d after %d", first, s.log.Last()))
		}
		if err := s.log.Reset(first); err != nil { // after an installed snapshot
			return err
		}
	}
	heads, bodies := make([][]byte, len(logs)), make([][]byte, len(logs))
	buf := s.buf[:0]
	for i, l := range logs {
		from := len(buf)
		buf = raftHead(buf, l)
		heads[i], bodies[i] = buf[from:len(buf):len(buf)], l.Data
	}
	s.buf = buf
	s.busy.Store(clock.SinceStart())
	last, err := s.log.AppendReserved(heads, bodies)
	if err == nil && !(s.single.Load() && allLazy(logs)) {
		err = s.log.Sync(context.Background(), last)
	}
	s.busy.Store(0)
	switch {
	case err == nil:
		s.cache.add(logs)
	case errors.Is(err, wal.ErrPoisoned):
		s.failed(err)
	case s.log.Last() >= logs[0].Index: // a full disk took a part: Raft knows of none
		if terr := s.log.TruncateBack(logs[0].Index - 1); terr != nil {
			s.failed(terr)
		}
	}
	return err
}

// DeleteRange forgets entries at one end of the log.
func (s *logStore) DeleteRange(low, high uint64) error {
	first, last := max(s.firstIndex.Load(), s.log.First()), s.log.Last()
	switch {
	case low <= s.log.First() && high >= last:
		s.firstIndex.Store(0)
		s.cache.drop()
		return s.log.Reset(high + 1)
	case high >= last: // what lies below the mark may still be needed
		s.cache.drop()
		return s.log.TruncateBack(low - 1)
	case low <= first:
		s.firstIndex.Store(high + 1)
		return s.release()
	}
	return fail.New(fail.Internal, "delete", "Raft log",
		fmt.Sprintf("%d to %d lies inside %d to %d", low, high, first, last))
}

// release frees what neither Raft nor an uploader needs. While a snapshot is
// taken it does nothing; housekeeping comes again.
func (s *logStore) release() error {
	if !s.hold.TryLock() {
		return nil
	}
	defer s.hold.Unlock()
	to := s.firstIndex.Load()
	if to <= s.log.First() {
		return nil
	}
	keep, err := s.retain()
	if err != nil {
		return err
	}
	if keep > 0 {
		to = min(to, keep)
	}
	if to <= s.log.First() {
		return nil
	}
	return s.log.TruncateFront(to)
}

// holdFront keeps bytes from being freed until what it returns is called.
func (s *logStore) holdFront() (release func()) {
	s.hold.RLock()
	return s.hold.RUnlock
}

// waitRoom holds appends back while the log is over its budget; commands, Uploaded
// among them, still pass and make room.
func (s *logStore) waitRoom(ctx context.Context) error {
	for first := true; ; first = false {
		if st := s.log.Stats(); st.LiveBytes <= st.BudgetBytes {
			return nil
		}
		if first {
			s.wantRoom()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// wantRoom wakes housekeeping, which may be able to make room.
func (s *logStore) wantRoom() {
	select {
	case s.crowded <- struct{}{}:
	default:
	}
}

// logSpares is how many written segments of Raft's log are kept: what grows between
// two snapshots. An append to a new file costs about twice as much.
const logSpares = 16

// OpenLogStore opens Raft's log alone, as a journal has it, in an empty directory:
// for benchmarks against other log stores.
func OpenLogStore(fs vfs.FS, dir string) (raft.LogStore, func() error, error) {
	w, err := wal.Open(wal.Options{FS: fs, Dir: filepath.Join(dir, "raft"), SegmentBytes: defaultLogSegmentBytes,
		BudgetBytes: defaultLogBudgetBytes, ReserveBytes: 1 << 40, PreallocateInBackground: true, MaxSpares: logSpares})
	if err != nil {
		return nil, nil, err
	}
	return &logStore{log: w, retain: func() (uint64, error) { return 0, nil }, failed: func(error) {}}, w.Close, nil
}
