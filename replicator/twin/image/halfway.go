package image

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/hostdev"
	"github.com/pollux-dr/pollux/internal/private"
	"github.com/pollux-dr/pollux/internal/provenance"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// halfway is what a restore leaves beside its target while it runs, so that another
// one goes on where it ended.
type halfway struct {
	Version int    `json:"version"`
	Stream  string `json:"stream"`
	Volume  uint32 `json:"volume"`
	Size    int64  `json:"size_bytes"`
	Target  string `json:"target"`
	twin.Base
	// Hash is of the frame in which High lies; earlier releases wrote none. Another one there says that
	// a fence has cut off what the target holds.
	Hash change.Hash `json:"hash,omitzero"`
}

const halfwayVersion = 2

// statePath is where a target's halfway is kept: beside a file, and for a device,
// which has no beside, where it outlives a reboot.
func (t *Target) statePath() string {
	if t.device {
		return filepath.Join(deviceStates(), hostdev.Number(t.Path)+".json")
	}
	return t.partial() + ".json"
}

// deviceStates is a directory of this user's alone: what lies there says which blocks
// of a device are not written.
func deviceStates() string { return fmt.Sprintf("/var/tmp/pollux-restore-%d", os.Geteuid()) }

func (t *Target) forget() error {
	return fail.Wrap(fail.Denied, "remove", t.statePath(), atomicfile.Remove(vfs.Default, t.statePath()))
}

// left reads what an interrupted restore left; there is none where the second result is
// false, and it is of no volume where it cannot be read.
func (t *Target) left() (h halfway, ok bool) {
	if t.device && private.CheckDir(deviceStates()) != nil {
		return h, false
	}
	b, err := os.ReadFile(t.statePath())
	if err != nil {
		return h, false
	}
	if json.Unmarshal(b, &h) != nil || h.Version != halfwayVersion || h.Target != t.Path {
		h = halfway{}
	}
	return h, true
}

// loadHalfway returns what an interrupted restore of the volume left, nil where there
// is nothing to go on from.
func (t *Target) loadHalfway(v *state.Volume) *twin.Base {
	h, ok := t.left()
	if !ok || h.Stream != v.Stream.String() || h.Volume != v.Number || h.Size != v.SizeBytes {
		return nil
	}
	if _, err := os.Stat(t.partial()); err != nil && !t.device {
		return nil
	}
	t.hash = h.Hash
	return &h.Base
}

// Interrupted adds what an interrupted restore left on a device to its objections, unless
// the options say what is to become of it. A file has its own beside it, and loses nothing.
func (t *Target) Interrupted(v *state.Volume, o *Options) {
	if _, ok := t.left(); !t.device || !ok || o.Restart {
		return
	}
	whose := "another volume"
	if t.loadHalfway(v) != nil {
		if o.Resume {
			return
		}
		whose, t.resumable = "this volume", true
	}
	t.Objections = append(t.Objections, "an interrupted restore of "+whose+" left half a point on it")
}

// base finds out what the target holds already.
func (t *Target) base(o *Options, p *twin.Point) (base *twin.Base, what string) {
	if o.Restart {
		return nil, ""
	}
	if !t.device || o.Resume {
		if base := t.loadHalfway(p.Volume); base != nil {
			return base, "an interrupted restore"
		}
	}
	r, ok := provenance.RestoredAt(t.Path)
	if t.exists && !t.device && o.Overwrite && ok && r.Untouched && r.Stream == p.Volume.Stream.String() &&
		r.Volume == p.Volume.Number && t.have == p.Volume.SizeBytes {
		t.reuse, t.hash = true, r.Hash
		return twin.Complete(r.LSN), fmt.Sprintf("the image of LSN %d that is there", r.LSN)
	}
	return nil, ""
}

// Held finds the point that a device is said to hold. An interrupted restore onto it says
// otherwise, and so does a later write to the volume, whoever insists: a bookmark of the
// name may be an older one than the operator thinks.
func (t *Target) Held(ctx context.Context, l *twin.Log, p *twin.Point, at string) (*twin.Point, error) {
	if !t.device {
		return nil, fail.New(fail.Invalid, "restore to", t.Path, "--from is for a block device, and this is none").
			WithHint("an image that restore made, and nobody wrote to since, is known without it: use " +
				"--overwrite alone")
	}
	if _, ok := t.left(); ok {
		return nil, fail.New(fail.Refused, "restore to", t.Path, "an interrupted restore left half a point on it").
			WithHint("go on with it by --resume in place of --from, or begin anew by --restart")
	}
	held, err := l.Resolve(ctx, p.Volume, at, time.Now())
	if err != nil {
		return nil, fail.At("find what "+t.Path+" holds, --from", at, err)
	}
	since, err := l.Written(ctx, p.Volume, held.LSN)
	why := ""
	switch {
	case fail.Is(err, fail.NotFound), err == nil && l.DamageOf(p.Volume) != nil:
		why = "whether the volume was written to since cannot be told from what is left of the log"
	case err != nil:
		return nil, fail.At("find what "+t.Path+" holds, --from", at, err)
	case since:
		why = fmt.Sprintf("the volume was written to since LSN %d (%s)", held.LSN, held.Time.UTC().Format(time.RFC3339))
	}
	if why != "" {
		return nil, fail.New(fail.Refused, "restore to", t.Path, "--from "+at+" is not what it holds: "+why).
			WithHint("with nobody writing, set a new bookmark now, wait until it is in the store (pollux group " +
				"wait), and name that one; or leave --from out, and all data is written")
	}
	return &held, nil
}

// saver writes how far a restore is, every now and then, after what it says is on
// disk.
type saver struct {
	t      *Target
	state  halfway
	hashes map[uint64]change.Hash // of the frames at what can be High
	there  twin.Base              // and perhaps not synced
	failed error                  // of a sync
	last   time.Time
	every  time.Duration
}

const saveEvery = 3 * time.Second

func newSaver(t *Target, v *state.Volume, left twin.Base) *saver {
	return &saver{t: t, state: halfway{Version: halfwayVersion, Stream: v.Stream.String(), Volume: v.Number,
		Size: v.SizeBytes, Target: t.Path, Base: left},
		there: left, last: time.Now(), every: saveEvery}
}

// reached is a Run's Done.
func (s *saver) reached(b twin.Base) error {
	s.there = b
	if time.Since(s.last) < s.every && b.Done != twin.Whole {
		return nil
	}
	s.last = time.Now()
	return s.settle()
}

// settle syncs the target, and only then says how far it is. A failed sync is not tried
// again: what it lost, the next one would not tell.
func (s *saver) settle() error {
	if s.failed != nil {
		return s.failed
	}
	if err := s.t.file.Sync(); err != nil {
		s.failed = fail.Wrap(fail.Full, "sync", s.t.Path, err)
		return s.failed
	}
	s.state.Base = s.there
	return s.save()
}

// distrust gives up what is there: it is not what was written, nor zeros where nothing
// was, so that nobody can go on from it.
func (s *saver) distrust(err error) { s.failed = err }

func (s *saver) save() error {
	s.state.Hash = s.hashes[s.state.High]
	b, err := json.Marshal(s.state)
	if err != nil {
		return fail.Wrap(fail.Internal, "encode", s.t.statePath(), err)
	}
	if s.t.device {
		if err := private.Dir(deviceStates()); err != nil {
			return err
		}
	}
	return atomicfile.WriteFile(vfs.Default, s.t.statePath(), append(b, '\n'))
}
