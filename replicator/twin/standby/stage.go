package standby

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/fail"
)

// stage keeps objects on local disk from when they were read until nothing needs them. Objects
// are put and got by one goroutine at a time; anybody may ask for sizes.
type stage struct {
	fs  vfs.FS
	dir string

	mu    sync.Mutex // of files and bytes
	files map[uint64]staged
	bytes int64

	// recent are objects that are in memory as well.
	recent      map[uint64]*object
	recentBytes int64
	// free is the memory of objects that were recent: taking it anew costs more than reading
	// into it does.
	free [][]byte
	copy []byte // what is being written
}

// staged is a file.
type staged struct {
	bytes int64
	time  int64 // of the object, ns, by the journal's clock; 0: not known yet
}

// maxRecentBytes bounds what of the staged objects is kept in memory.
const maxRecentBytes = 96 << 20

const stagedPrefix = "object-"

// openStage looks at what is there. Of a file that is not whole nothing is lost: it is found
// out when it is read.
func openStage(fs vfs.FS, dir string) (*stage, error) {
	s := &stage{fs: fs, dir: dir, files: map[uint64]staged{}, recent: map[uint64]*object{}}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return nil, fail.Wrap(fail.Denied, "create", dir, err)
	}
	if err := atomicfile.SyncDir(fs, fs.PathDir(dir)); err != nil {
		return nil, fail.Wrap(fail.Full, "sync", fs.PathDir(dir), err)
	}
	names, err := fs.List(dir)
	if err != nil {
		return nil, fail.Wrap(fail.Denied, "list", dir, err)
	}
	for _, name := range names {
		path := fs.PathJoin(dir, name)
		digits, ours := strings.CutPrefix(name, stagedPrefix)
		position, err := strconv.ParseUint(digits, 10, 64)
		if ours && err == nil && s.path(position) == path {
			info, err := fs.Stat(path)
			if err != nil {
				return nil, fail.Wrap(fail.Denied, "look at", path, err)
			}
			s.files[position] = staged{bytes: info.Size()}
			s.bytes += info.Size()
		} else if strings.HasSuffix(name, atomicfile.TempSuffix) {
			if err := fs.Remove(path); err != nil {
				return nil, fail.Wrap(fail.Denied, "remove", path, err)
			}
		}
	}
	return s, nil
}

func (s *stage) path(position uint64) string {
	return s.fs.PathJoin(s.dir, fmt.Sprintf(stagedPrefix+"%020d", position))
}

func (s *stage) has(position uint64) bool { _, ok := s.file(position); return ok }

func (s *stage) file(position uint64) (staged, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.files[position]
	return f, ok
}

// note says what is staged at a position; nil is nothing.
func (s *stage) note(position uint64, f *staged) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes -= s.files[position].bytes
	if delete(s.files, position); f != nil {
		s.files[position] = *f
		s.bytes += f.bytes
	}
}

// size is how much is staged at a position, and total in all.
func (s *stage) size(position uint64) int64 {
	f, _ := s.file(position)
	return f.bytes
}

func (s *stage) total() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}

// put makes an object durable.
func (s *stage) put(o *object) error {
	path := s.path(o.Position)
	s.copy = append(s.copy[:0], o.raw...) // a vfs.File may change what it writes
	if err := atomicfile.WriteFile(s.fs, path, s.copy); err != nil {
		return fail.Wrap(fail.Full, "stage", path, err)
	}
	s.note(o.Position, &staged{int64(len(o.raw)), o.Time})
	s.remember(o)
	return nil
}

func (s *stage) remember(o *object) {
	if s.recent[o.Position] == nil && s.recentBytes+int64(len(o.raw)) <= maxRecentBytes {
		s.recent[o.Position] = o
		s.recentBytes += int64(len(o.raw))
	}
}

// buffer is memory to read an object into, or nil.
func (s *stage) buffer() (buf []byte) {
	if n := len(s.free); n > 0 {
		buf, s.free = s.free[n-1], s.free[:n-1]
	}
	return buf
}

// release takes memory back that nothing refers to any more.
func (s *stage) release(buf []byte) {
	if cap(buf) > 0 && cap(buf) <= wideBytes/2 && len(s.free) < maxWidth {
		s.free = append(s.free, buf[:0])
	}
}

// get returns a staged object, checked. Errors: fail.NotFound where it is not there, and
// fail.Damaged, after which it is not there any more.
func (s *stage) get(position uint64) (*object, error) {
	if o := s.recent[position]; o != nil {
		return o, nil
	}
	path := s.path(position)
	if !s.has(position) {
		return nil, fail.New(fail.NotFound, "read", path, "not staged")
	}
	raw, err := readFile(s.fs, path)
	if err != nil {
		return nil, fail.Wrap(fail.Denied, "read", path, err)
	}
	o, err := parse(position, raw)
	if err != nil {
		s.forget(position)
		return nil, fail.At("read", path, err)
	}
	s.note(position, &staged{int64(len(raw)), o.Time})
	return o, nil
}

// when is the time of a staged object.
func (s *stage) when(position uint64) (int64, error) {
	if f, _ := s.file(position); f.time != 0 {
		return f.time, nil
	}
	o, err := s.get(position)
	if err != nil {
		return 0, err
	}
	s.remember(o)
	return o.Time, nil
}

// forget removes an object; what of it stays behind after a failure or a crash is removed by
// the next start that drops it.
func (s *stage) forget(position uint64) {
	if !s.has(position) {
		return
	}
	s.note(position, nil)
	if o := s.recent[position]; o != nil {
		s.recentBytes -= int64(len(o.raw))
		delete(s.recent, position)
		s.release(o.raw)
	}
	_ = s.fs.Remove(s.path(position))
}

// drop removes what nothing needs any more: all before a position that is not held.
func (s *stage) drop(before uint64, held map[uint64]bool) {
	s.mu.Lock()
	there := slices.Collect(maps.Keys(s.files))
	s.mu.Unlock()
	for _, position := range there {
		if position < before && !held[position] {
			s.forget(position)
		}
	}
}

// from is how many bytes are staged from a position on.
func (s *stage) from(position uint64) (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, f := range s.files {
		if p >= position {
			n += f.bytes
		}
	}
	return n
}
