package agent

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestRemovedBackingIsFree removes a volume under readers: they end with the
// volume, and the backing is nobody's afterwards, without a restart.
func TestRemovedBackingIsFree(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	a, err := Open(regressOpts(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close(ctx) }()
	sc := StreamConf{ID: uuid.New(), Number: 1, Group: "g"}
	if err := a.AddStream(sc); err != nil {
		t.Fatal(err)
	}
	img := filepath.Join(t.TempDir(), "v")
	vc := VolumeConf{Name: "v", Number: 2, Group: "g", Stream: sc.ID, SizeBytes: 1 << 20, Backing: img}
	if _, err := a.AddVolume(ctx, vc); err != nil {
		t.Fatal(err)
	}
	v, err := a.Device("v")
	if err != nil {
		t.Fatal(err)
	}
	writeDevice(t, v, []byte("kept"), 0)
	if !holdsOpen(t, img) {
		t.Fatal("the backing of a volume is not open")
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			p := make([]byte, 4096)
			for off := int64(0); ; off = (off + 4096) % (1 << 20) {
				err := v.ReadAt(ctx, p, off)
				if err == nil {
					_, err = v.Extents(ctx, 0, 1<<20)
				}
				if fail.Is(err, fail.NotFound) {
					return
				}
				if err != nil {
					t.Errorf("a read beside the removal: %v", err)
					return
				}
			}
		})
	}
	if err := a.RemoveVolume(ctx, "v"); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if holdsOpen(t, img) {
		t.Error("a removed volume's backing is still open")
	}
	b, err := os.ReadFile(img)
	if err != nil || string(b[:4]) != "kept" {
		t.Errorf("the backing holds %q, %v", b[:4], err)
	}
	vc = VolumeConf{Name: "again", Number: 3, Group: "g", Stream: sc.ID, SizeBytes: 1 << 20, Backing: img}
	if _, err := a.AddVolume(ctx, vc); err != nil {
		t.Errorf("a new volume on it: %v", err)
	}
}

// holdsOpen reports whether this process has the file open.
func holdsOpen(t *testing.T, path string) bool {
	t.Helper()
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && to == path {
			return true
		}
	}
	return false
}
