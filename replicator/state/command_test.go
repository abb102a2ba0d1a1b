package state

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

func TestCommandRoundTrip(t *testing.T) {
	want := Bookmark{Name: "b", Group: "g", Stream: uuid.UUID{1}, LSN: 5, Epoch: 6, Time: time.Unix(7, 8).UTC()}
	b := Encode(KindBookmarkAdd, want)
	kind, _, err := Open(b)
	if err != nil || kind != KindBookmarkAdd {
		t.Fatalf("%v, %v", kind, err)
	}
	var got Bookmark
	if err := Decode(b, KindBookmarkAdd, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := Decode(b, KindFence, &got); !fail.Is(err, fail.Damaged) ||
		!strings.Contains(err.Error(), "bookmark-add in place of fence") {
		t.Errorf("as another kind: %v", err)
	}
}

func TestCommandFlips(t *testing.T) {
	orig := Encode(KindLease, LeaseGrant{Stream: uuid.UUID{1}, Agent: "a", Epoch: 2})
	for off := range orig {
		for bit := range 8 {
			b := bytes.Clone(orig)
			b[off] ^= 1 << bit
			if _, _, err := Open(b); !fail.Is(err, fail.Damaged) || !strings.Contains(err.Error(), "at byte") {
				t.Fatalf("byte %d bit %d: %v", off, bit, err)
			}
		}
	}
	for n := range orig {
		if _, _, err := Open(orig[:n]); !fail.Is(err, fail.Damaged) {
			t.Fatalf("%d of %d bytes: %v", n, len(orig), err)
		}
	}
	if _, _, err := Open(append(orig, 0)); !fail.Is(err, fail.Damaged) {
		t.Errorf("one byte more: %v", err)
	}
}

func TestCommandLimits(t *testing.T) {
	b := Encode(KindGroupPut, Group{Name: strings.Repeat("x", MaxCommandBytes)})
	if _, _, err := Open(b); !fail.Is(err, fail.Damaged) || !strings.Contains(err.Error(), "exceed") {
		t.Errorf("beyond the limit: %v", err)
	}
	b = Encode(KindGroupPut, Group{})
	binary.LittleEndian.PutUint16(b[4:], 12)
	binary.LittleEndian.PutUint32(b[12:],
		crc32.Update(crc32.Checksum(b[:12], castagnoli), castagnoli, b[EnvelopeBytes:]))
	if _, _, err := Open(b); !fail.Is(err, fail.Unsupported) || !strings.Contains(err.Error(), "version 12") {
		t.Errorf("version 12: %v", err)
	}
}

// FuzzOpenCommand: what opens, applies or is refused; a refusal changes nothing,
// and what changed can be saved and loaded.
func FuzzOpenCommand(f *testing.F) {
	for kind, v := range map[Kind]any{KindGroupPut: Group{Name: "h"},
		KindStreamCreate: Stream{ID: uuid.UUID{9}, Group: "g", Agent: "b"},
		KindVolumeCreate: Volume{Name: "w", Group: "g", Stream: testStream, SizeBytes: 1},
		KindVolumeReady:  VolumeReady{Name: "v", FirstLSN: 3},
		KindVolumeRemove: VolumeRemove{Name: "v"}, KindBookmarkAdd: Bookmark{Name: "b", Group: "g"},
		KindLease: LeaseGrant{Stream: testStream, Agent: "a"}, KindHeartbeat: Heartbeat{},
		KindAudit: Audit{Who: "w", Verb: "v"}, KindWayBack: WayBack{Step: WayBackCommit, Epoch: 2},
		KindFence: Fence{}, 999: Fence{}} {
		b := Encode(kind, v)
		f.Add(uint16(kind), b[EnvelopeBytes:], b)
	}
	f.Fuzz(func(t *testing.T, kind uint16, body, raw []byte) {
		if _, _, err := Open(raw); err != nil && !fail.Is(err, fail.Damaged) && !fail.Is(err, fail.Unsupported) {
			t.Fatal(err)
		}
		s := example(t)
		before := dump(s)
		changed, err := s.Apply(Kind(kind), body)
		if err != nil {
			if diff := cmp.Diff(before, dump(s)); diff != "" {
				t.Errorf("refused, and changed: %v\n%s", err, diff)
			}
			return
		}
		for _, key := range changed {
			if err := New().Load(key, s.Save(key)); err != nil {
				t.Errorf("load %s: %v", key, err)
			}
		}
	})
}

// dump is all that a state holds, number counter included.
func dump(s *State) map[string]string {
	m := map[string]string{"next": string(change.Encode(s.next))}
	for name := range s.Groups {
		m["group/"+name] = string(s.Save("group/" + name))
	}
	for id := range s.Streams {
		m["stream/"+id.String()] = string(s.Save("stream/" + id.String()))
	}
	for name := range s.Volumes {
		m["volume/"+name] = string(s.Save("volume/" + name))
	}
	for name := range s.Bookmarks {
		m["bookmark/"+name] = string(s.Save("bookmark/" + name))
	}
	for slot := range s.Audits {
		m[fmt.Sprintf("audit/%d", slot)] = string(s.Save(fmt.Sprintf("audit/%d", slot)))
	}
	return m
}
