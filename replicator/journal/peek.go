package journal

import (
	"errors"
	"log/slog"
	"path/filepath"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
)

// Peeked is what a journal's directory says of it, as far as entries were applied.
type Peeked struct {
	Journal   uuid.UUID
	Epoch     uint64
	Next      uint64                           // journal index of the next entry
	State     *state.State                     // the control state
	Points    map[change.StreamID]change.Point // where the streams end
	Positions map[string]uint64                // by target: how many objects were written
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
		return nil, fail.Wrap(openKind(err), "open", path, err)
	}
	out, err := peek(db)
	return out, errors.Join(err, db.Close())
}

func peek(db *pebble.DB) (*Peeked, error) {
	f := &fsm{db: db}
	if err := f.load(); err != nil {
		return nil, err
	}
	if f.id.Journal == uuid.Nil {
		return nil, fail.New(fail.NotFound, "read", "journal identity", "this member was not let in to a journal yet")
	}
	out := &Peeked{Journal: f.id.Journal, Epoch: f.id.Epoch, Next: f.next, State: f.state, Points: f.points,
		Positions: map[string]uint64{}}
	for name, t := range f.targets {
		out.Positions[name] = t.Position
	}
	return out, nil
}
