package bench

import (
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/fail"
)

const (
	blockBytes   = 4096
	segmentBytes = 1 << 20 // of a sequential write
	corpusBytes  = 256 << 20
	minCorpus    = 4 << 20
)

// corpus is the content of real files, each padded to whole blocks as a
// filesystem would. Random bytes or repeated ones would say nothing about
// compression.
type corpus struct {
	data []byte // outside of the Go heap, so that it does not slow its collector's pace
	root string
}

// loadCorpus reads the files below root, in order, until it has limit bytes.
func loadCorpus(root string, limit int) (*corpus, error) {
	if root == "" {
		root = defaultData()
	}
	mem, err := unix.Mmap(-1, 0, limit, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fail.Wrap(fail.Full, "reserve", "memory for block contents", err)
	}
	c := &corpus{data: mem, root: root}
	n, err := fill(mem, root)
	if err == nil && n < min(minCorpus, limit) {
		err = fail.New(fail.Invalid, "read block contents from", root, "it holds less than 4 MiB of files")
	}
	if err != nil {
		c.close()
		return nil, err
	}
	// What is left repeats the beginning, so that every offset can be used.
	for n < limit {
		n += copy(mem[n:], mem[:n])
	}
	return c, nil
}

// fill returns how much of mem the files below root gave, in whole blocks.
func fill(mem []byte, root string) (int, error) {
	n := 0
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			if path == root {
				return fail.Wrap(fail.NotFound, "read block contents from", root, err)
			}
			return nil // unreadable: the next one will do
		}
		if !e.Type().IsRegular() {
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return nil
		}
		defer f.Close()
		k, err := io.ReadFull(f, mem[n:])
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if n += (k + blockBytes - 1) / blockBytes * blockBytes; n >= len(mem) {
			n = len(mem)
			return filepath.SkipAll
		}
		return nil
	})
	return n, err
}

// defaultData is the Go toolchain's tree where there is one.
func defaultData() string {
	if root := os.Getenv("GOROOT"); root != "" {
		return root
	}
	if path, err := exec.LookPath("go"); err == nil {
		cmd := exec.Command(path, "env", "GOROOT")
		cmd.Dir = "/" // not inside a module that might ask for another toolchain
		out, err := cmd.Output()
		if root := strings.TrimSpace(string(out)); err == nil && root != "" {
			return root
		}
	}
	return "/usr"
}

// pick returns n bytes of content, from a block boundary.
func (c *corpus) pick(r *rand.Rand, n int) []byte {
	at := r.Int64N(int64(len(c.data)-n)/blockBytes+1) * blockBytes
	return c.data[at : at+int64(n) : at+int64(n)]
}

func (c *corpus) close() {
	if c.data != nil {
		_ = unix.Munmap(c.data)
		c.data = nil
	}
}

// prepare makes a file of size bytes, written all over and synced, so that no
// server pays for allocation.
func (c *corpus) prepare(path string, size int64, seed uint64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fail.Wrap(fail.Denied, "create", path, err)
	}
	r := random(seed, "prepare", 0)
	for off := int64(0); off < size && err == nil; off += segmentBytes {
		_, err = f.WriteAt(c.pick(r, segmentBytes), off)
	}
	if err == nil {
		err = f.Sync()
	}
	return fail.Wrap(fail.Full, "prepare", path, errors.Join(err, f.Close()))
}

// random is the source of one slice: the same for every server that runs it.
func random(seed uint64, what string, round int) *rand.Rand {
	h := seed
	for _, b := range []byte(what) {
		h = h*1099511628211 ^ uint64(b)
	}
	return rand.New(rand.NewPCG(h, uint64(round)))
}

// collect gives a phase a clean heap, so that it does not pay for the one
// before.
func collect() { runtime.GC() }
