package journal

import (
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Peeked is what a journal's directory says of the object logs that it writes.
type Peeked struct {
	Journal   uuid.UUID
	Positions map[string]uint64 // by target: how many objects were written
}

// Peek reads the directory of a journal that does not run, and changes nothing in it. It
// is a fail.NotFound error where no journal was begun.
func Peek(fs vfs.FS, dir string) (*Peeked, error) {
	path := filepath.Join(dir, "state")
	if _, err := fs.Stat(path); oserror.IsNotExist(err) {
		return nil, fail.New(fail.NotFound, "open", path, "no journal was begun here")
	}
	quiet := pebbleLogger{slog.New(slog.DiscardHandler)}
	db, err := pebble.Open(path, &pebble.Options{FS: fs, ReadOnly: true, Logger: quiet})
	if err != nil {
		return nil, fail.Wrap(fail.Retry, "open", path, err)
	}
	out, err := peek(db)
	return out, errors.Join(err, db.Close())
}

func peek(db *pebble.DB) (*Peeked, error) {
	b, err := get(db, keyIdentity)
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, fail.New(fail.NotFound, "read", "journal identity", "this member was not let in to a journal yet")
	}
	var id identity
	if err := json.Unmarshal(b, &id); err != nil {
		return nil, fail.Wrap(fail.Damaged, "read", "journal identity", err)
	}
	out := &Peeked{Journal: id.Journal, Positions: map[string]uint64{}}
	return out, scan(db, keyTarget, func(k, v []byte) error {
		var t Target
		if err := json.Unmarshal(v, &t); err != nil {
			return fail.Wrap(fail.Damaged, "read", "target "+string(k), err)
		}
		out.Positions[string(k)] = t.Position
		return nil
	})
}
