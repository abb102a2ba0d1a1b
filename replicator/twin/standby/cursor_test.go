package standby

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/golden"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
)

// sampleCursor has all that a cursor can have.
func sampleCursor() *cursor {
	id := change.StreamID(uuid.MustParse("20000000-0000-4000-8000-00000000000b"))
	return &cursor{Version: fileVersion, Journal: uuid.MustParse("10000000-0000-4000-8000-00000000000a"), Position: 70,
		Index: 900,
		Token: segment.Token{Epoch: 2, Term: 3, Writer: uuid.MustParse("30000000-0000-4000-8000-00000000000c")},
		Time:  1_700_000_000_000_000_000, State: stateName(70), Through: 72,
		Streams: map[change.StreamID]*streamCursor{id: {Applied: change.Point{LSN: 40, Hash: change.Hash{1, 2}},
			Time: 1_699_999_999_000_000_000, Written: 1_699_999_999_500_000_000,
			Tail: change.Point{LSN: 44, Hash: change.Hash{3}}, Held: []piece{{Position: 68, First: 880, Last: 883}},
			LetGo: true, Broken: "an object is damaged"}},
		Volumes: map[string]*volumeCursor{
			"follows": {Number: 1, Stream: id, Size: 1 << 30, Path: "/images/follows.img", Following: true, Begun: true,
				Image: true},
			"behind": {Number: 2, Stream: id, Size: 4096, Path: "/dev/sdz", Begun: true, Image: true, Low: 30, High: 38,
				Hash: change.Hash{9}, End: 64,
				Dead: []deadRange{{From: 50, To: 60, Index: 800, At: change.Point{LSN: 37, Hash: change.Hash{8}}}}}},
		Samples: []sample{{Position: 16, Index: 100}, {Position: 32, Index: 500}}}
}

// TestGoldenCursor: what an earlier build wrote is read, and what is written today.
func TestGoldenCursor(t *testing.T) {
	old := sampleCursor() // before a dead branch had a point, and an image an end
	old.Volumes["behind"].End, old.Volumes["behind"].Dead[0].At = 0, change.Point{}
	b, err := json.Marshal(sampleCursor())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]*cursor{"cursor": old, "cursor-end": sampleCursor()} {
		got, kept := &cursor{}, []byte(nil)
		if want.Volumes["behind"].End == 0 {
			kept = golden.Kept(t, name, nil)
		} else {
			kept = golden.Same(t, name, sealed(b))
		}
		if err := decodeFile("cursor.json", kept, got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: read %+v, want %+v", name, got, want)
		}
	}
}

// FuzzCursor: whatever a file holds, it is read, or refused as damaged or of another version.
func FuzzCursor(f *testing.F) {
	b, _ := json.Marshal(sampleCursor()) // it is marshaled above
	f.Add(sealed(b))
	f.Add(sealed([]byte(`{"version":9}`)))
	f.Add([]byte("nonsense"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, sealed(b)} {
			out, err := DecodeCursor("cursor.json", b)
			if err == nil && !json.Valid(out) || err != nil && !fail.Is(err, fail.Damaged) &&
				!fail.Is(err, fail.Unsupported) {
				t.Errorf("%s: %v", out, err)
			}
		}
	})
}
