package twin

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
)

// Cache keeps on local disk what was read of logs: objects never change, so that a log that
// was read once costs only what came since. It helps, and is never needed: what cannot be
// written, or is not what was written, is as if it were not there. Several processes may
// use a directory at once. Methods of nil do nothing.
type Cache struct {
	dir   string
	limit int64
	wrote atomic.Bool
}

// CacheBytes is the usual bound of a cache.
const CacheBytes = 256 << 20

// NewCache returns the cache in a directory, which is made if it is missing, and is bounded
// when a log has been read.
func NewCache(dir string, limit int64) (*Cache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fail.Wrap(fail.Denied, "make cache", dir, err)
	}
	return &Cache{dir: dir, limit: limit}, nil
}

// endPart names an object's end among its parts; the others are byte ranges.
const endPart = "end"

// sumBytes is the checksum behind what is kept.
const sumBytes = 4

// ours are the names below a journal's directory: nothing else there is ever deleted.
var ours = regexp.MustCompile(`^([0-9]{20}-[0-9a-f]{24}-[0-9a-z-]+|\.new-[0-9]+)$`)

// path names a part of an object with this content; "" where the content has no name.
func (c *Cache) path(journal uuid.UUID, of located, part string) string {
	if c == nil || of.tag == "" {
		return ""
	}
	content := sha256.Sum256(fmt.Appendf(nil, "%d %s", of.bytes, of.tag))
	return filepath.Join(c.dir, journal.String(), fmt.Sprintf("%s-%x-%s", filepath.Base(objlog.ObjectName(of.position)),
		content[:12], part))
}

func (c *Cache) get(journal uuid.UUID, of located, part string) ([]byte, bool) {
	path := c.path(journal, of, part)
	if path == "" {
		return nil, false
	}
	b, err := os.ReadFile(path)
	n := len(b) - sumBytes
	if err != nil || n < 0 || crc32.Checksum(b[:n], castagnoli) != binary.LittleEndian.Uint32(b[n:]) {
		return nil, false
	}
	return b[:n], true
}

func (c *Cache) put(journal uuid.UUID, of located, part string, b []byte) {
	path := c.path(journal, of, part)
	if path == "" || os.MkdirAll(filepath.Dir(path), 0o700) != nil {
		return
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return
	}
	_, err = f.Write(binary.LittleEndian.AppendUint32(slices.Clone(b), crc32.Checksum(b, castagnoli)))
	// Nothing is synced: what a power cut leaves is seen by its checksum.
	if cerr := f.Close(); err != nil || cerr != nil || os.Rename(f.Name(), path) != nil {
		_ = os.Remove(f.Name())
		return
	}
	c.wrote.Store(true)
}

// trim deletes what was written first until the rest is well below the limit.
func (c *Cache) trim() {
	if c == nil || !c.wrote.Swap(false) {
		return
	}
	type file struct {
		path  string
		bytes int64
		at    time.Time
	}
	var files []file
	total := int64(0)
	journals, _ := os.ReadDir(c.dir)
	for _, j := range journals {
		if uuid.Validate(j.Name()) != nil {
			continue
		}
		entries, _ := os.ReadDir(filepath.Join(c.dir, j.Name()))
		for _, e := range entries {
			if i, err := e.Info(); err == nil && i.Mode().IsRegular() && ours.MatchString(e.Name()) {
				files, total = append(files, file{filepath.Join(c.dir, j.Name(), e.Name()), i.Size(), i.ModTime()}),
					total+i.Size()
			}
		}
	}
	if total <= c.limit {
		return
	}
	slices.SortFunc(files, func(a, b file) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.path, b.path)) })
	for _, f := range files {
		if total <= c.limit/4*3 {
			return
		}
		if os.Remove(f.path) == nil {
			total -= f.bytes
		}
	}
}
