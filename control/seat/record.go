package seat

import (
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/metafile"
)

// RecordPath is where a state directory says that its journal has its seat elsewhere.
func RecordPath(state string) string { return filepath.Join(state, "superseded.json") }

type record struct {
	Version int `json:"version"`
	change.Superseded
}

// Load reads what a state directory says; nil where the seat is here, as far as is known. Errors
// are metafile.Load's.
func Load(fs vfs.FS, state string) (*change.Superseded, error) {
	var r record
	found, err := metafile.Load(fs, RecordPath(state), "it said that this journal went on at another site: "+
		"look there, and run pollux failback here", &r)
	if err != nil || !found {
		return nil, err
	}
	return &r.Superseded, nil
}

// Save writes it, durably. Errors are metafile.Save's.
func Save(fs vfs.FS, state string, s *change.Superseded) error {
	return metafile.Save(fs, RecordPath(state), record{Version: metafile.Version, Superseded: *s})
}
