package journal

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/segment"
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

// targetPut names the targets that entries are kept for.
type targetPut struct {
	Targets  []string `json:"targets"`
	Required []string `json:"required"`
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

// dropUploaded forgets the entries that every target has.
func (f *fsm) dropUploaded(b *pebble.Batch) {
	low := f.next
	for _, t := range f.targets {
		low = min(low, t.Index+1)
	}
	// One by one: each range tombstone would burden every later iterator.
	for ; f.floor < low; f.floor++ {
		_ = b.Delete(frameKey(f.floor), nil)
	}
	f.backlog.drop(f.floor)
}

// applyTargets sets the list of targets. A new one starts from the beginning of
// the journal, which must still be there.
func (f *fsm) applyTargets(b *pebble.Batch, data []byte) result {
	var p targetPut
	if err := json.Unmarshal(data, &p); err != nil {
		return result{err: fail.Wrap(fail.Damaged, "apply", "targets", err)}
	}
	want := map[string]bool{}
	for _, name := range p.Targets {
		want[name] = true
		required := p.Required == nil || slices.Contains(p.Required, name) // nil: of an older release
		if t := f.targets[name]; t != nil {
			if t.Required != required {
				t.Required = required
				f.putTarget(b, name)
			}
			continue
		}
		if f.floor > 1 {
			return result{err: fail.New(fail.Refused, "add target", name, "the journal no longer holds its beginning").
				WithHint("targets can be added only before anything was uploaded; keep the ones that there are")}
		}
		f.targets[name] = &Target{Required: required}
		f.durable[name] = map[change.StreamID]change.Point{}
		f.putTarget(b, name)
	}
	for name := range f.targets {
		if !want[name] {
			delete(f.targets, name)
			delete(f.durable, name)
			_ = b.Delete(append(append([]byte{}, keyTarget...), name...), nil)
			prefix := append(append(append([]byte{}, keyDurable...), name...), '/')
			_ = b.DeleteRange(prefix, prefixEnd(prefix), nil)
		}
	}
	f.dropUploaded(b)
	return result{}
}

func prefixEnd(p []byte) []byte {
	end := append([]byte{}, p...)
	end[len(end)-1]++
	return end
}

// durableLSN is what every target, or every required one, holds of a stream.
func (f *fsm) durableLSN(id change.StreamID, requiredOnly bool) uint64 {
	low, any := ^uint64(0), false
	for name, t := range f.targets {
		if t.Required || !requiredOnly {
			low, any = min(low, f.durable[name][id].LSN), true
		}
	}
	if !any {
		return 0
	}
	return low
}

// targetSpec lists the targets, with what makes them required.
func (f *fsm) targetSpec() []string {
	var out []string
	for name, t := range f.targets {
		out = append(out, targetText(name, t.Required))
	}
	slices.Sort(out)
	return out
}

func targetText(name string, required bool) string {
	if required {
		return name
	}
	return name + " (optional)"
}
