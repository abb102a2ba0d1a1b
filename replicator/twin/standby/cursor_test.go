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
				Hash: change.Hash{9}, Dead: []deadRange{{From: 50, To: 60, Index: 800}}}},
		Samples: []sample{{Position: 16, Index: 100}, {Position: 32, Index: 500}}}
}

// TestGoldenCursor: what an earlier build wrote is read, and written today.
func TestGoldenCursor(t *testing.T) {
	b, err := json.Marshal(sampleCursor())
	if err != nil {
		t.Fatal(err)
	}
	got := &cursor{}
	if err := decodeFile("cursor.json", golden.Same(t, "cursor", sealed(b)), got); err != nil {
		t.Fatal(err)
	}
	if want := sampleCursor(); !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, want %+v", got, want)
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
