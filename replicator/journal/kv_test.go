package journal

import (
	"log/slog"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

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
