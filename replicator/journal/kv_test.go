package journal

import (
	"fmt"
	"io"
	"log/slog"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/fail"
)

// fullDisk has next to no room left.
type fullDisk struct{ vfs.FS }

func (fullDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: minFreeBytes - 1, TotalBytes: 1 << 30, UsedBytes: 1<<30 - minFreeBytes + 1}, nil
}

// TestOpenOnFullDisk: Pebble would try to flush for ever, and say so each time.
func TestOpenOnFullDisk(t *testing.T) {
	_, err := openKV(fullDisk{vfs.NewMem()}, "/j/state", slog.New(slog.DiscardHandler))
	if !fail.Is(err, fail.Full) || fail.HintOf(err) == "" {
		t.Errorf("%v, hint %q", err, fail.HintOf(err))
	}
}

// TestOpenFlips flips a byte of Pebble's own files after a kill, each in turn: a
// store that does not open is named as damaged.
func TestOpenFlips(t *testing.T) {
	const dir = "/j/state"
	quiet := slog.New(slog.DiscardHandler)
	fs := vfs.NewCrashableMem()
	if err := fs.MkdirAll("/j", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, parent := range []string{"/j", "/"} {
		if err := atomicfile.SyncDir(fs, fs.PathDir(fs.PathJoin(parent, "x"))); err != nil {
			t.Fatal(err)
		}
	}
	db, err := openKV(fs, dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		if err := db.Set(fmt.Appendf(nil, "k%d", i), []byte("a value of some length"), pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	killed := func() *vfs.MemFS { return fs.CrashClone(vfs.CrashCloneCfg{}) }
	names, err := killed().List(dir)
	if err != nil {
		t.Fatal(err)
	}
	damaged := 0
	for _, name := range names {
		for off := 0; ; off += 7 {
			disk := killed()
			if !flipByte(t, disk, disk.PathJoin(dir, name), off) {
				break
			}
			db, err := openKV(disk, dir, quiet)
			if err == nil {
				_ = db.Close()
				continue
			}
			damaged++
			if !fail.Is(err, fail.Damaged) {
				t.Errorf("%s at %d: %v", name, off, err)
			}
			if _, err := Peek(disk, "/j"); !fail.Is(err, fail.Damaged) {
				t.Errorf("%s at %d, read only: %v", name, off, err)
			}
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if damaged == 0 {
		t.Error("no flip kept the store from opening: nothing was tried")
	}
}

// flipByte says whether the file has a byte there.
func flipByte(t *testing.T, fs vfs.FS, path string, off int) bool {
	t.Helper()
	f, err := fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, int64(off)); err != nil {
		if err != io.EOF {
			t.Fatal(err)
		}
		return false
	}
	b[0] ^= 0x40
	if _, err := f.WriteAt(b, int64(off)); err != nil {
		t.Fatal(err)
	}
	return true
}
