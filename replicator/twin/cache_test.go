package twin

import (
	"bytes"
	"context"
	"crypto/md5"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

// tagged is a store whose lists have tags, as those of S3 servers.
type tagged struct{ objstore.Store }

func (s tagged) List(ctx context.Context, prefix, after string, fn func(objstore.Info) error) error {
	return s.Store.List(ctx, prefix, after, func(i objstore.Info) error {
		b, err := s.Read(ctx, i.Name, 0, -1, nil)
		if err != nil {
			return err
		}
		i.Tag = fmt.Sprintf("%x", md5.Sum(b))
		return fn(i)
	})
}

// TestCache: what was read once is not asked for again, but for what is new; what the
// cache has wrong, or of another content, is.
func TestCache(t *testing.T) {
	h := long(t, 20)
	h.command(state.KindGroupPut, state.Group{Name: "g"}) // not near its object's end
	noise := make([]byte, 200<<10)
	rand.NewChaCha8([32]byte{}).Read(noise)
	h.frame(streamA, change.Change{Kind: change.Write, Volume: 2, Len: uint32(len(noise)), Data: [][]byte{noise}})
	h.segment()
	dir := t.TempDir()
	cache, err := NewCache(dir, CacheBytes)
	if err != nil {
		t.Fatal(err)
	}
	want := imageOf(t, h.mustOpen())
	open := func(what string, asked int64) {
		t.Helper()
		f := &countedReads{Store: h.store}
		l, err := Open(t.Context(), tagged{f}, &Reading{Cache: cache})
		if err != nil || l.Damage != nil || l.End != h.pos {
			t.Fatalf("%s: %v, %+v", what, err, l)
		}
		if n := f.ends.Load(); n != asked {
			t.Errorf("%s: %d ends of objects were read, not %d", what, n, asked)
		}
		if !bytes.Equal(imageOf(t, l), want) {
			t.Errorf("%s: another image", what)
		}
	}
	all := int64(h.pos)
	open("empty", all)
	open("full", 1) // the identity, by which the cache is asked
	files, err := filepath.Glob(filepath.Join(dir, testJournal.String(), "*-"+endPart))
	if err != nil || int64(len(files)) != all-1 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for i, path := range files[:3] {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(path, b[:len(b)-i*len(b)/2], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	open("three are damaged", 1+3)
	open("mended", 1)
	other := []byte("another object under the name, as long as before")
	if err := os.WriteFile(h.file(5), append(other, make([]byte, size(t, h, 5)-len(other))...), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Open(t.Context(), tagged{h.store}, &Reading{Cache: cache})
	if err != nil || l.Damage == nil || l.End != 5 {
		t.Errorf("another object: %v, %+v", err, l)
	}
}

// TestCacheBound: a cache does not grow beyond its limit, and deletes nothing of others.
func TestCacheBound(t *testing.T) {
	h := long(t, 40)
	dir := t.TempDir()
	foreign := []string{filepath.Join(dir, "mine"), filepath.Join(dir, testJournal.String(), "mine")}
	if err := os.Mkdir(filepath.Dir(foreign[1]), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range foreign {
		if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cache, err := NewCache(dir, 8<<10)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if l, err := Open(t.Context(), tagged{h.store}, &Reading{Cache: cache}); err != nil || l.Damage != nil {
			t.Fatal(err, l)
		}
		total := int64(0)
		files, _ := filepath.Glob(filepath.Join(dir, testJournal.String(), "0*"))
		for _, path := range files {
			if st, err := os.Stat(path); err == nil {
				total += st.Size()
			}
		}
		if len(files) == 0 || total > 8<<10 {
			t.Errorf("%d files of %d bytes", len(files), total)
		}
	}
	for _, path := range foreign {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}

// countedReads counts the reads of the ends of the log's objects.
type countedReads struct {
	objstore.Store
	ends atomic.Int64
}

func (s *countedReads) Read(ctx context.Context, name string, off, n int64, buf []byte) ([]byte, error) {
	if off < 0 {
		s.ends.Add(1)
	}
	return s.Store.Read(ctx, name, off, n, buf)
}

func size(t *testing.T, h *history, pos uint64) int {
	n, err := h.store.Size(t.Context(), objlog.ObjectName(pos))
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}
