package block_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/block/blocktest"
	"github.com/pollux-dr/pollux/internal/fail"
)

const size = 4<<20 + 777 // whole pages are too easy

func newFile(t *testing.T, dir string) *block.File {
	t.Helper()
	path := filepath.Join(dir, "disk")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	return open(t, path)
}

func open(t *testing.T, path string) *block.File {
	t.Helper()
	f, err := block.OpenFile(path, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// Random operations leave every device equal to a plain slice of bytes: on
// ext4 or the like, on tmpfs (without ZERO_RANGE), on a loop device (only
// whole sectors), in memory.
func TestAgainstModel(t *testing.T) {
	for _, tc := range []struct {
		name string
		dev  func(*testing.T) block.Device
	}{
		{"file", func(t *testing.T) block.Device { return newFile(t, t.TempDir()) }},
		{"tmpfs", func(t *testing.T) block.Device {
			dir, err := os.MkdirTemp("/dev/shm", "pollux")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			return newFile(t, dir)
		}},
		{"memory", func(*testing.T) block.Device { return blocktest.NewMem(size) }},
		{"loop", loopDevice},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dev := tc.dev(t)
			model := make([]byte, dev.Info().SizeBytes)
			rnd := rand.New(rand.NewPCG(1, 2))
			for range 300 {
				step(t, dev, model, rnd)
			}
			got := make([]byte, len(model))
			if err := dev.ReadAt(t.Context(), got, 0); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, model) {
				t.Fatal("content differs from the model")
			}
		})
	}
}

func step(t *testing.T, dev block.Device, model []byte, rnd *rand.Rand) {
	t.Helper()
	ctx := t.Context()
	n := 1 + rnd.IntN(1<<(1+rnd.IntN(20)))
	off := rnd.IntN(len(model) - n + 1)
	fua := rnd.IntN(8) == 0
	var err error
	switch rnd.IntN(6) {
	case 0, 1:
		b, perr := dev.Prepare(ctx, n)
		if perr != nil {
			t.Fatal(perr)
		}
		p := model[off : off+n]
		for i := range p {
			p[i] = byte(rnd.Uint32())
		}
		for _, piece := range b.Pieces() {
			p = p[copy(piece, p):]
		}
		err = dev.Write(ctx, b, int64(off), fua)
	case 2:
		clear(model[off : off+n])
		err = dev.Zero(ctx, int64(off), int64(n), rnd.IntN(2) == 0, fua)
	case 3:
		clear(model[off : off+n])
		err = dev.Trim(ctx, int64(off), int64(n), fua)
	case 4:
		p := make([]byte, n)
		err = dev.ReadAt(ctx, p, int64(off))
		if err == nil && !bytes.Equal(p, model[off:off+n]) {
			t.Fatalf("read of %d at %d differs", n, off)
		}
	case 5:
		checkExtents(t, dev, model, int64(off), int64(n))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// checkExtents checks that what is called zero is zero.
func checkExtents(t *testing.T, dev block.Device, model []byte, off, n int64) {
	t.Helper()
	extents, err := dev.Extents(t.Context(), off, n)
	if err != nil || len(extents) == 0 {
		t.Fatalf("extents: %v, %v", extents, err)
	}
	end := off + n
	for _, e := range extents {
		if e.Bytes <= 0 || off+e.Bytes > end {
			t.Fatalf("extents of [%d,+%d): %v", end-n, n, extents)
		}
		if e.Zero && slices.Max(model[off:off+e.Bytes]) != 0 {
			t.Fatalf("[%d,+%d) is called zero", off, e.Bytes)
		}
		off += e.Bytes
	}
}

// loopDevice is a block device over a file. It needs root and losetup, as the
// machines that Pollux is for have them; elsewhere the case cannot be tried.
func loopDevice(t *testing.T) block.Device {
	if os.Geteuid() != 0 {
		t.Skip("needs root to set up a loop device")
	}
	path := filepath.Join(t.TempDir(), "backing")
	if err := os.WriteFile(path, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", path).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	name := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", name).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach %s: %v: %s", name, err, out)
		}
	})
	return open(t, name)
}

func TestFileExtents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte{1}, 64<<10), 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(2<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	got, err := open(t, path).Extents(t.Context(), 0, 2<<20)
	want := []block.Extent{{Bytes: 1 << 20, Hole: true, Zero: true}, {Bytes: 64 << 10},
		{Bytes: 1<<20 - 64<<10, Hole: true, Zero: true}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestFileRefuses(t *testing.T) {
	ctx := context.Background()
	if _, err := block.OpenFile(filepath.Join(t.TempDir(), "none"), false); !fail.Is(err, fail.NotFound) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := block.OpenFile(t.TempDir(), true); !fail.Is(err, fail.Invalid) {
		t.Errorf("directory: %v", err)
	}
	if _, err := block.OpenFile("/dev/null", false); !fail.Is(err, fail.Invalid) {
		t.Errorf("character device: %v", err)
	}
	f := newFile(t, t.TempDir())
	for _, r := range [][2]int64{{-1, 1}, {size, 1}, {0, size + 1}, {1 << 62, 1 << 62}, {0, -1}} {
		if err := f.Zero(ctx, r[0], r[1], false, false); !fail.Is(err, fail.Invalid) {
			t.Errorf("zero %v: %v", r, err)
		}
		if _, err := f.Extents(ctx, r[0], r[1]); !fail.Is(err, fail.Invalid) {
			t.Errorf("extents %v: %v", r, err)
		}
	}
	if err := f.ReadAt(ctx, make([]byte, 2), size-1); !fail.Is(err, fail.Invalid) {
		t.Errorf("read beyond the end: %v", err)
	}
	for _, n := range []int{0, -1, block.MaxWriteBytes + 1} {
		if _, err := f.Prepare(ctx, n); !fail.Is(err, fail.Invalid) {
			t.Errorf("prepare %d: %v", n, err)
		}
	}
	b, _ := f.Prepare(ctx, 10)
	if err := f.Write(ctx, b, size-5, false); !fail.Is(err, fail.Invalid) {
		t.Errorf("write beyond the end: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := f.Flush(ctx); !errors.Is(err, os.ErrClosed) {
		t.Errorf("flush after close: %v", err)
	}
}

func TestFileReadOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, []byte("hello"), 0o400); err != nil {
		t.Fatal(err)
	}
	f, err := block.OpenFile(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if !f.Info().ReadOnly || f.Info().SizeBytes != 5 {
		t.Errorf("info %+v", f.Info())
	}
	b, err := f.Prepare(t.Context(), 5)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Write(t.Context(), b, 0, false); !fail.Is(err, fail.Refused) {
		t.Errorf("write: %v", err)
	}
	if err := f.Trim(t.Context(), 0, 5, false); !fail.Is(err, fail.Refused) {
		t.Errorf("trim: %v", err)
	}
	if err := f.Flush(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestHeapBuffer(t *testing.T) {
	for _, n := range []int{0, 1, 4096, 4097, 65536, block.MaxWriteBytes - 1, block.MaxWriteBytes} {
		b := block.NewHeapBuffer(n)
		if len(b.Bytes()) != n || len(b.Pieces()) != 1 {
			t.Errorf("%d: %d bytes in %d pieces", n, len(b.Bytes()), len(b.Pieces()))
		}
		b.Release()
	}
}
