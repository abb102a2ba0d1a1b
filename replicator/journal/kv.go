package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"syscall"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// Keys of the Pebble store. Everything but z/ is the FSM's and part of its
// snapshot.
//
//	a                   applied Raft index, next journal index, first frame kept
//	b                   newest applied Raft index that was durable first
//	i                   identity: journal UUID, epoch, site
//	k                   Raft index from which on frames carry their bodies, journal
//	                    index of the newest frame before that
//	c/<kind>/<name>     control state (JSON, see package state)
//	f<8 bytes, BE>      journal index -> entry not yet uploaded everywhere
//	p<16 bytes>         stream -> last LSN, hash
//	t/<name>            target -> next position, uploaded index (JSON)
//	d/<target>/<stream> stream -> point durable in that target
//	z/stable/<name>     Raft's term and vote
//	zmember             this member's id and journal (JSON)
//	zage/<group>        where its streams stood, and how long ago (JSON)
var (
	keyApplied  = []byte("a")
	keyIdentity = []byte("i")
	keyFirm     = []byte("b")
	keyCopied   = []byte("k")
	keyMember   = []byte("zmember")
	keyControl  = []byte("c/")
	keyFrame    = []byte("f")
	keyPoint    = []byte("p")
	keyTarget   = []byte("t/")
	keyDurable  = []byte("d/")
	keyStable   = []byte("z/stable/") // last, so that one range holds the FSM's
)

// minFreeBytes is what Pebble needs to open: on a full disk it would try for ever, or end the process.
const minFreeBytes = 1 << 20

// roomFor refuses a directory on a full disk. Errors: fail.Full.
func roomFor(fs vfs.FS, dir string) error {
	use, err := fs.GetDiskUsage(fs.PathDir(dir))
	if err != nil {
		return nil //nolint:nilerr // it is not known, and Pebble finds out
	}
	free := use.AvailBytes
	if os.Geteuid() == 0 { // may use what is reserved
		free = max(free, use.TotalBytes-use.UsedBytes)
	}
	if free >= minFreeBytes {
		return nil
	}
	return fail.New(fail.Full, "open", dir, fmt.Sprintf("its filesystem is full: %d bytes are free", free)).
		WithHint("make room there, a megabyte at least, and start again")
}

func openKV(fs vfs.FS, dir string, log *slog.Logger) (*pebble.DB, error) {
	if err := roomFor(fs, dir); err != nil {
		return nil, err
	}
	opts := kvOptions(fs, log)
	if _, err := fs.Stat(dir); oserror.IsNotExist(err) {
		if err := createKV(fs, dir, opts, func(*pebble.DB) error { return nil }); err != nil {
			return nil, fail.Wrap(fail.Full, "create", dir, err)
		}
	}
	db, err := pebble.Open(dir, opts)
	if err != nil {
		return nil, fail.Wrap(openKind(err), "open", dir, err)
	}
	return db, nil
}

// kvOptions are Pebble's; log may be nil.
func kvOptions(fs vfs.FS, log *slog.Logger) *pebble.Options {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	t := trouble{log: log}
	opts := &pebble.Options{FS: fs, Logger: pebbleLogger{log}, FormatMajorVersion: pebble.FormatNewest,
		EventListener: &pebble.EventListener{BackgroundError: t.note}, MemTableSize: 4 << 20, MaxOpenFiles: 128}
	opts.CacheSize = 8 << 20
	return opts
}

// openKind is the kind of an error of Pebble's open. It marks only some of what is
// damage as such, with marks that the standard library does not see: so all is
// damage that the system, a version or another process is not to blame for.
func openKind(err error) fail.Kind {
	switch errno := syscall.Errno(0); {
	case strings.Contains(err.Error(), "unknown format major version"): // its checksum was right
		return fail.Unsupported
	case errors.As(err, &errno) && errno == syscall.EAGAIN: // its lock
		return fail.Retry
	case errors.As(err, &errno) && errno != syscall.ENOENT:
		return fail.Internal
	}
	return fail.Damaged
}

// createKV makes the store aside, with what fill puts into it, and moves it into place when
// it is complete: a power cut in the middle of Pebble's own creation leaves what it cannot open.
func createKV(fs vfs.FS, dir string, opts *pebble.Options, fill func(*pebble.DB) error) error {
	fresh := dir + ".new"
	if err := fs.RemoveAll(fresh); err != nil && !oserror.IsNotExist(err) {
		return err
	}
	db, err := pebble.Open(fresh, opts)
	if err != nil {
		return err
	}
	if err := errors.Join(fill(db), db.Close()); err != nil {
		return err
	}
	if err := fs.Rename(fresh, dir); err != nil {
		return err
	}
	return atomicfile.SyncDir(fs, fs.PathDir(dir))
}

func get(db pebble.Reader, key []byte) ([]byte, error) {
	v, closer, err := db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fail.Wrap(fail.Internal, "read", fmt.Sprintf("journal key %q", key), err)
	}
	out := append([]byte{}, v...)
	return out, closer.Close()
}

// stable is Raft's StableStore: term and vote, synced before Raft goes on.
type stable struct{ db *pebble.DB }

func (s stable) key(k []byte) []byte { return append(append([]byte{}, keyStable...), k...) }

// clear forgets term and vote: before a first bootstrap there is no promise in
// them.
func (s stable) clear() error {
	err := s.db.DeleteRange(keyStable, prefixEnd(keyStable), pebble.Sync)
	return fail.Wrap(fail.Internal, "clear", "Raft's stable store", err)
}

func (s stable) Set(k, v []byte) error { return s.db.Set(s.key(k), v, pebble.Sync) }

func (s stable) Get(k []byte) ([]byte, error) {
	v, err := get(s.db, s.key(k))
	if err == nil && v == nil {
		v = []byte{} // Raft takes an error for a failure and nothing for "not found"
	}
	return v, err
}

func (s stable) SetUint64(k []byte, v uint64) error {
	return s.Set(k, binary.BigEndian.AppendUint64(nil, v))
}

func (s stable) GetUint64(k []byte) (uint64, error) {
	v, err := s.Get(k)
	if err != nil || len(v) == 0 {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fail.New(fail.Damaged, "read", "Raft's stable store", fmt.Sprintf("key %q has %d bytes", k, len(v)))
	}
	return binary.BigEndian.Uint64(v), nil
}

func frameKey(index uint64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, 9), keyFrame...), index)
}

func pointKey(id change.StreamID) []byte { return append(append([]byte{}, keyPoint...), id[:]...) }

func durableKey(target string, id change.StreamID) []byte {
	return append(append(append(append([]byte{}, keyDurable...), target...), '/'), id[:]...)
}

func putPoint(p change.Point) []byte {
	return append(binary.LittleEndian.AppendUint64(make([]byte, 0, 24), p.LSN), p.Hash[:]...)
}

func parsePoint(b []byte) (p change.Point, err error) {
	if len(b) != 24 {
		return p, fail.New(fail.Damaged, "read", "journal state", fmt.Sprintf("point of %d bytes", len(b)))
	}
	p.LSN = binary.LittleEndian.Uint64(b)
	copy(p.Hash[:], b[8:])
	return p, nil
}
