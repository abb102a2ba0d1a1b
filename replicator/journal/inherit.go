package journal

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
)

// Heritage is what a journal goes on from at another site: what its object log holds before a
// fence of the next epoch. Journal index, LSNs and chains of hashes go on.
type Heritage struct {
	Journal uuid.UUID
	Created time.Time // of the journal
	Epoch   uint64    // the new one, that of the fence
	Site    string    // the new seat
	Next    uint64    // the journal index that follows
	How     string    // state.MoveForced or state.MovePlanned
	Time    time.Time // when it was decided
	State   *state.State
	Points  map[change.StreamID]change.Point // where the streams end
	Targets map[string]InheritedTarget
}

// InheritedTarget is an object log that was fenced for the new epoch.
type InheritedTarget struct {
	Target
	Streams map[change.StreamID]change.Point // what it holds
}

// Inherit makes in dir the state of a journal that goes on from an object log, alone at first.
// Open then starts it. A repeat finds what it made: the same journal of the same epoch. Errors:
// fail.Exists where another journal's state is there, fail.Full.
func Inherit(fs vfs.FS, dir string, h *Heritage) error {
	path := filepath.Join(dir, "state")
	if _, err := fs.Stat(path); err == nil {
		return inherited(fs, dir, h)
	} else if !oserror.IsNotExist(err) {
		return fail.Wrap(fail.Denied, "look at", path, err)
	}
	// Raft's part of a directory without a state is nobody's: Open begins both anew.
	if err := fs.RemoveAll(filepath.Join(dir, "raft")); err != nil && !oserror.IsNotExist(err) {
		return fail.Wrap(fail.Denied, "remove", filepath.Join(dir, "raft"), err)
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return fail.Wrap(fail.Denied, "create", dir, err)
	}
	if err := roomFor(fs, path); err != nil {
		return err
	}
	return createKV(fs, path, kvOptions(fs, nil), h.write)
}

// inherited reports whether the journal in dir is what Inherit makes of h, or made of it before
// it went on.
func inherited(fs vfs.FS, dir string, h *Heritage) error {
	there, err := Peek(fs, dir)
	if err != nil {
		return err
	}
	if there.Journal != h.Journal || there.Epoch != h.Epoch || there.Next < h.Next {
		return fail.New(fail.Exists, "inherit into", dir, fmt.Sprintf("journal %s of epoch %d is there, at index %d",
			there.Journal, there.Epoch, there.Next)).
			WithHint("if it is a journal that was given up, move " + dir + " away first")
	}
	return nil
}

// write puts the keys of the FSM, of which Raft has applied nothing yet.
func (h *Heritage) write(db *pebble.DB) error {
	b := db.NewBatch()
	defer b.Close()
	f := &fsm{next: h.Next, floor: h.Next, targets: map[string]*Target{}}
	f.putApplied(b)
	_ = b.Set(keyIdentity, mustJSON(identity{h.Journal, h.Epoch, h.Site, h.Created,
		&inheritance{h.Next, h.How, h.Time}}), nil) // a batch's Set does not fail
	for _, key := range h.State.Keys() {
		_ = b.Set(append(append([]byte{}, keyControl...), key...), h.State.Save(key), nil)
	}
	for id, p := range h.Points {
		_ = b.Set(pointKey(id), putPoint(p), nil)
	}
	for name, t := range h.Targets {
		f.targets[name] = &t.Target
		f.putTarget(b, name)
		for id, p := range t.Streams {
			_ = b.Set(durableKey(name, id), putPoint(p), nil)
		}
	}
	return b.Commit(pebble.Sync)
}
