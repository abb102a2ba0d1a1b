package extentmap

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cockroachdb/pebble/v2"

	"github.com/pollux-dr/pollux/internal/fail"
)

// scratch sorts keys, in memory while they are few, and then in a Pebble store that
// nobody needs after the process. After flush any number of goroutines may read.
type scratch struct {
	parent string
	few    []pair // all of it, until db is there
	bytes  int
	dir    string
	db     *pebble.DB
	batch  *pebble.Batch
	full   atomic.Pointer[error] // what Pebble could not write
}

type pair struct{ key, value []byte }

const (
	fewBytes           = 4 << 20
	scratchBatchBytes  = 1 << 20
	scratchMemoryBytes = 8 << 20
)

// open moves over to Pebble.
func (s *scratch) open() (err error) {
	if s.dir, err = os.MkdirTemp(s.parent, "pollux-map-*"); err != nil {
		return noRoom("create map in", s.parent, err)
	}
	opts := &pebble.Options{DisableWAL: true, FormatMajorVersion: pebble.FormatNewest, MemTableSize: scratchMemoryBytes,
		MaxOpenFiles: 64,
		// A full disk must be an error, not a wait without end: Pebble's writers are never
		// held up, and after each batch we look.
		MemTableStopWritesThreshold: 1 << 10, L0StopWritesThreshold: 1 << 10,
		Logger: quiet{}, EventListener: &pebble.EventListener{BackgroundError: func(err error) {
			s.full.CompareAndSwap(nil, &err)
			time.Sleep(10 * time.Millisecond) // it tries again at once, and for ever
		}}}
	opts.CacheSize = 8 << 20
	if s.db, err = pebble.Open(s.dir, opts); err != nil {
		_ = os.RemoveAll(s.dir)
		return noRoom("create map in", s.dir, err)
	}
	s.batch = s.db.NewBatch()
	for _, p := range s.few {
		if err := s.set(p.key, p.value); err != nil {
			return err
		}
	}
	s.few = nil
	return nil
}

// quiet is Pebble's logger.
type quiet struct{}

func (quiet) Infof(string, ...any)              {}
func (quiet) Errorf(string, ...any)             {}
func (quiet) Fatalf(format string, args ...any) { panic(fmt.Sprintf("pebble: "+format, args...)) }

// close forgets all of it.
func (s *scratch) close() error {
	if s.db == nil {
		return nil
	}
	_ = s.batch.Close()
	err := s.db.Close()
	return errors.Join(err, os.RemoveAll(s.dir))
}

func (s *scratch) set(key, value []byte) error {
	if s.db == nil && s.bytes+len(key)+len(value) <= fewBytes {
		both := append(append(make([]byte, 0, len(key)+len(value)), key...), value...)
		s.few = append(s.few, pair{both[:len(key):len(key)], both[len(key):]})
		s.bytes += len(both) + int(unsafe.Sizeof(pair{}))
		return nil
	}
	if s.db == nil {
		if err := s.open(); err != nil {
			return err
		}
	}
	if err := s.batch.Set(key, value, nil); err != nil {
		return s.failed(err)
	}
	if s.batch.Len() < scratchBatchBytes {
		return nil
	}
	return s.flush()
}

// flush makes all that was set readable.
func (s *scratch) flush() error {
	if s.db == nil {
		slices.SortFunc(s.few, func(a, b pair) int { return bytes.Compare(a.key, b.key) })
		return nil
	}
	err := s.batch.Commit(pebble.NoSync)
	s.batch.Reset()
	if p := s.full.Load(); err == nil && p != nil {
		err = *p
	}
	if err == nil {
		return nil
	}
	return noRoom("build map in", s.dir, err)
}

// each calls fn for the keys in [from, to), in order, until it returns false.
func (s *scratch) each(from, to []byte, fn func(key, value []byte) (bool, error)) error {
	if s.db == nil {
		at, _ := slices.BinarySearchFunc(s.few, from, func(p pair, key []byte) int { return bytes.Compare(p.key, key) })
		for ; at < len(s.few) && (to == nil || bytes.Compare(s.few[at].key, to) < 0); at++ {
			if more, err := fn(s.few[at].key, s.few[at].value); err != nil || !more {
				return err
			}
		}
		return nil
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return s.failed(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if more, err := fn(it.Key(), it.Value()); err != nil || !more {
			return err
		}
	}
	return s.failed(it.Error())
}

func (s *scratch) failed(err error) error { return fail.Wrap(fail.Internal, "use map in", s.dir, err) }

func noRoom(op, dir string, err error) error {
	return &fail.Error{Kind: fail.Full, Op: op, Object: dir, Err: err,
		Hint: "make room there, or name another place with TMPDIR"}
}
