package journal

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
)

// Uploaded records that a target holds the journal up to Index, in positions
// below Position.
type Uploaded struct {
	Target   string                           `json:"target"`
	Position uint64                           `json:"position"` // the next one
	Index    uint64                           `json:"index"`    // the last one uploaded
	Token    segment.Token                    `json:"token"`    // of the fence that holds there
	Streams  map[change.StreamID]change.Point `json:"streams"`  // where it brings each stream
}

// targetPut names the targets that entries are kept for. Builds that do not know
// LetGo and Keep ignore them: their members keep more than they need to.
type targetPut struct {
	Targets  []string         `json:"targets"`
	Required []string         `json:"required"`
	LetGo    map[string]LetGo `json:"let_go,omitempty"` // for them, nothing is kept any more
	Keep     []string         `json:"keep,omitempty"`   // for them, everything is from now on
}

// Target is how far an object log has come.
type Target struct {
	Position uint64 `json:"position"`
	Index    uint64 `json:"index"`
	// Token is of the newest fence below Position: older writers' objects
	// beyond it are void.
	Token segment.Token `json:"token"`
	// Required: what is durable remotely is in it.
	Required bool `json:"required"`
	// LetGo is set while entries after Index are missing here; see let_go.go. From is
	// the first one that is kept for it again, 0 where none is, and Kept the LSN of
	// each stream there.
	LetGo *LetGo                     `json:"let_go,omitempty"`
	From  uint64                     `json:"from,omitempty"`
	Kept  map[change.StreamID]uint64 `json:"kept,omitempty"`
}

func (f *fsm) applyUploaded(b *pebble.Batch, data []byte) result {
	var u Uploaded
	if err := json.Unmarshal(data, &u); err != nil {
		return result{err: fail.Wrap(fail.Damaged, "apply", "Uploaded", err)}
	}
	t := f.targets[u.Target]
	if t == nil || u.Index < t.Index || u.Position < t.Position || u.Index >= f.next {
		return result{err: fail.New(fail.Refused, "apply", "Uploaded", fmt.Sprintf("%+v after %+v", u, t))}
	}
	t.Position, t.Index, t.Token = u.Position, u.Index, u.Token
	t.settle()
	f.putTarget(b, u.Target)
	for id, p := range u.Streams {
		f.durable[u.Target][id] = p
		_ = b.Set(durableKey(u.Target, id), putPoint(p), nil)
	}
	f.dropUploaded(b)
	return result{}
}

func (f *fsm) putTarget(b *pebble.Batch, name string) {
	js, _ := json.Marshal(f.targets[name])
	_ = b.Set(append(append([]byte{}, keyTarget...), name...), js, nil)
}

// dropUploaded forgets the entries that no target needs.
func (f *fsm) dropUploaded(b *pebble.Batch) {
	low := f.next
	for _, t := range f.targets {
		low = min(low, t.needs())
	}
	// One by one: each range tombstone would burden every later iterator.
	for ; f.floor < low; f.floor++ {
		_ = b.Delete(frameKey(f.floor), nil)
	}
	f.backlog.drop(f.floor)
}

// applyTargets sets the list of targets, then lets some of them go or keeps entries
// for them again. A required one that is new starts from the beginning of the
// journal, which must still be there.
func (f *fsm) applyTargets(b *pebble.Batch, data []byte) result {
	var p targetPut
	if err := json.Unmarshal(data, &p); err != nil {
		return result{err: fail.Wrap(fail.Damaged, "apply", "targets", err)}
	}
	required := func(name string) bool { // nil: of an older release
		return p.Required == nil || slices.Contains(p.Required, name)
	}
	if err := f.checkTargets(&p, required); err != nil {
		return result{err: err}
	}
	for _, name := range p.Targets {
		if t := f.targets[name]; t != nil {
			if t.Required != required(name) {
				t.Required = required(name)
				f.putTarget(b, name)
			}
			continue
		}
		f.targets[name] = &Target{Required: required(name)}
		f.durable[name] = map[change.StreamID]change.Point{}
		if f.floor > 1 {
			f.targets[name].LetGo = &LetGo{Reason: "it is new, and the journal no longer holds its beginning"}
		}
		f.putTarget(b, name)
	}
	for name := range f.targets {
		if !slices.Contains(p.Targets, name) {
			delete(f.targets, name)
			delete(f.durable, name)
			_ = b.Delete(append(append([]byte{}, keyTarget...), name...), nil)
			prefix := append(append(append([]byte{}, keyDurable...), name...), '/')
			_ = b.DeleteRange(prefix, prefixEnd(prefix), nil)
		}
	}
	for name, why := range p.LetGo {
		f.letGo(b, name, why)
	}
	f.dropUploaded(b)
	for _, name := range p.Keep {
		f.keep(b, name)
	}
	return result{}
}

// letGo keeps nothing for a target any more. A repeat, and one who keeps up meanwhile,
// are left alone.
func (f *fsm) letGo(b *pebble.Batch, name string, why LetGo) {
	t := f.targets[name]
	if t == nil || t.Required || (t.LetGo != nil && t.From == 0) {
		return
	}
	if t.LetGo == nil {
		t.LetGo = &why
	}
	t.From, t.Kept = 0, nil
	f.putTarget(b, name)
}

// keep keeps the entries from the floor on for a target that was let go.
func (f *fsm) keep(b *pebble.Batch, name string) {
	t := f.targets[name]
	if t == nil || t.LetGo == nil || t.From > 0 {
		return
	}
	kept := map[change.StreamID]uint64{}
	for id := range f.points {
		kept[id] = f.neededLSN(id) // before this one counts
	}
	t.From, t.Kept = f.floor, kept
	t.settle()
	f.putTarget(b, name)
}

// checkTargets refuses a list with which entries that are still to come to a required
// target would be nowhere.
func (f *fsm) checkTargets(p *targetPut, required func(name string) bool) error {
	whole := len(p.Targets) == 0
	for _, name := range p.Targets {
		t := f.targets[name]
		_, let := p.LetGo[name]
		if let && required(name) {
			return fail.New(fail.Refused, "let go of target", name, "it is required")
		}
		if t == nil && f.floor > 1 && required(name) {
			return fail.New(fail.Refused, "add target", name, "the journal no longer holds its beginning").
				WithHint("add it with `optional: true`: it is filled from another target; " +
					"make it required once it has everything")
		}
		has := f.floor == 1
		if t != nil {
			has = t.LetGo == nil
		}
		whole = whole || has && !let
	}
	if !whole {
		return fail.New(fail.Refused, "set", "targets", "none of them has what the journal no longer holds").
			WithHint("keep a target that has everything")
	}
	return nil
}

func prefixEnd(p []byte) []byte {
	end := append([]byte{}, p...)
	end[len(end)-1]++
	return end
}

// durableLSN is what every required target that protects against the loss of the seat's site
// holds of a stream, 0 where there is none.
func (f *fsm) durableLSN(id change.StreamID) uint64 {
	return f.leastLSN(func(name string, t *Target) (uint64, bool) {
		return f.durable[name][id].LSN, t.Required && f.state.Protects(name)
	})
}

// neededLSN is up to where no target needs a stream's frames from here.
func (f *fsm) neededLSN(id change.StreamID) uint64 {
	return f.leastLSN(func(name string, t *Target) (uint64, bool) {
		return max(f.durable[name][id].LSN, t.Kept[id]), t.LetGo == nil || t.From > 0
	})
}

// leastLSN is the least of those that count, 0 where none does.
func (f *fsm) leastLSN(of func(name string, t *Target) (lsn uint64, counts bool)) uint64 {
	low, any := ^uint64(0), false
	for name, t := range f.targets {
		if lsn, counts := of(name, t); counts {
			low, any = min(low, lsn), true
		}
	}
	if !any {
		return 0
	}
	return low
}
