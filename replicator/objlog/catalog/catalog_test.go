package catalog

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/state"
)

var streamA = uuid.MustParse("20000000-0000-0000-0000-00000000000a")

func at(lsn uint64, second int64) At { return At{Point: change.Point{LSN: lsn}, Time: second * 1e9} }

// sample has marks at positions 1, 10, 20 with stream A at LSN 0, 5, 9.
func sample() *Catalog {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	c := &Catalog{Number: 7, Journal: uuid.UUID{1}, Created: now,
		ReadPoints: []ReadPoint{{Position: 1, Time: now},
			{Position: 10, Index: 30, Time: now, Streams: map[change.StreamID]At{streamA: at(5, 50)}},
			{Position: 20, Index: 60, Time: now, Streams: map[change.StreamID]At{streamA: at(9, 90)}}},
		Streams: map[change.StreamID]*Stream{
			streamA: {Retained: []RetainedPoint{{At: at(5, 50)}, {At: at(7, 70), Bookmark: "b"}, {At: at(9, 90)}},
				Volumes: map[uint32]*Volume{2: {
					Layers: []Layer{{Whole: true, To: 5, Objects: []extent.MapObject{{Name: "map/x", Extents: 3}}},
						{From: 5, To: 7}, {Whole: true, From: 7, To: 9}}}}}},
		Dead: map[string]time.Time{"log/1": now}}
	c.SetState(state.New())
	return c
}

func TestRoundTrip(t *testing.T) {
	c := sample()
	b, err := Encode(c)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(b)
	if diff := cmp.Diff(c, got); err != nil || diff != "" {
		t.Fatal(err, diff)
	}
	for off := range b {
		x := bytes.Clone(b)
		x[off] ^= 1 << rand.IntN(8)
		// A bit that means nothing (reserved, or in the compressed form) may go unnoticed.
		if got, err := Decode(x); err == nil && cmp.Diff(c, got) != "" || err != nil && !fail.Is(err, fail.Damaged) {
			t.Fatalf("byte %d flipped: %v", off, err)
		}
		if _, err := Decode(b[:off]); !fail.Is(err, fail.Damaged) {
			t.Fatalf("%d bytes: %v", off, err)
		}
	}
}

// TestLaterState: a catalog whose state is of a later release is no damage.
func TestLaterState(t *testing.T) {
	for key, want := range map[string]fail.Kind{"later/x": fail.Unsupported, "group/g": fail.Damaged} {
		c := sample()
		c.State[key] = json.RawMessage(`{"name":"h"}`)
		b, err := Encode(c)
		if err == nil {
			_, err = Decode(b)
		}
		if !fail.Is(err, want) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestLookups(t *testing.T) {
	c := sample()
	for _, x := range []struct {
		lsn  uint64
		mark int
	}{{1, 0}, {5, 0}, {6, 1}, {9, 1}, {10, 2}} {
		if got := c.ReadPointBefore(streamA, x.lsn); got != x.mark {
			t.Errorf("LSN %d: mark %d, want %d", x.lsn, got, x.mark)
		}
	}
	for second, mark := range map[int64]int{1: 0, 49: 0, 50: 1, 89: 1, 90: 2, 1000: 2} {
		if got := c.ReadPointBeforeTime(streamA, time.Unix(second, 0)); got != mark {
			t.Errorf("second %d: mark %d, want %d", second, got, mark)
		}
	}
	for lsn, want := range map[uint64]int{5: 1, 8: 2, 9: 1} { // whole ones end the list
		if got := c.LayersAt(streamA, 2, lsn); len(got) != want {
			t.Errorf("LSN %d: %d layers, want %d", lsn, len(got), want)
		}
	}
	if k, ok := c.RetainedAt(streamA, 8); !ok || k.Bookmark != "b" {
		t.Errorf("%+v", k)
	}
	if _, ok := c.RetainedAt(streamA, 4); ok {
		t.Error("a point before all")
	}
}

// TestCheck: what readers rely on is refused where it is not so.
func TestCheck(t *testing.T) {
	for name, spoil := range map[string]func(c *Catalog){
		"no marks":      func(c *Catalog) { c.ReadPoints = nil },
		"marks go back": func(c *Catalog) { c.ReadPoints[2].Position = 10 },
		"kept go back":  func(c *Catalog) { c.Streams[streamA].Retained[1].LSN = 5 },
		"layers":        func(c *Catalog) { c.Streams[streamA].Volumes[2].Layers[1].To = 4 },
		"empty stream":  func(c *Catalog) { c.Streams[streamA] = nil },
		"no streams":    func(c *Catalog) { c.Streams = nil },
		"stream back":   func(c *Catalog) { c.ReadPoints[2].Streams[streamA] = at(4, 90) },
		"mark at 0":     func(c *Catalog) { c.ReadPoints[0].Position = 0 },
		"a map's path":  func(c *Catalog) { c.Streams[streamA].Volumes[2].Layers[0].Objects[0].Name = "map/../log/1" },
		"a map's size":  func(c *Catalog) { c.Streams[streamA].Volumes[2].Layers[0].Objects[0].Bytes = 1 << 40 },
		"a pack's size": func(c *Catalog) { c.Packs = []Pack{{Number: 1, Bytes: 1 << 40}} },
		"a fence":       func(c *Catalog) { c.Fences = []Fence{{Position: 3, From: 4}} },
		"a bookmark":    func(c *Catalog) { c.Streams[streamA].Retained[1].Bookmark = "b\x1b[2J" },
		"a volume's name": func(c *Catalog) {
			c.State["volume/../../x"] = []byte(`{"name":"../../x","group":"g","size_bytes":1}`)
		},
	} {
		c := sample()
		spoil(c)
		b, err := Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(b); !fail.Is(err, fail.Damaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBombs: a small object that would fill memory is refused before it does.
func TestBombs(t *testing.T) {
	seal := func(js []byte, n uint32) []byte {
		le, b := binary.LittleEndian, make([]byte, headBytes)
		copy(b, magic)
		le.PutUint16(b[4:], Version)
		le.PutUint32(b[8:], n)
		le.PutUint32(b[12:], crc32.Update(crc32.Checksum(b[:12], castagnoli), castagnoli, js))
		return change.Zstd(change.Thorough, b, js)
	}
	marks := []byte(`{"number":1,"marks":[` + strings.Repeat("{},", 20<<20) + `{}]}`)
	nulls := []byte(`{"number":1,"streams":{` +
		strings.Repeat(`"20000000-0000-0000-0000-00000000000a":null,`, 1000) + `"x":[` +
		strings.Repeat("null,", 10<<20) + `null]}}`)
	for name, b := range map[string][]byte{
		"3 GiB are claimed":  seal(nil, 3<<30),
		"250 MiB of nothing": seal(nil, 250<<20),
		"20 M empty marks":   seal(marks, uint32(len(marks))),
		"10 M nulls":         seal(nulls, uint32(len(nulls))),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Decode(b)
		runtime.ReadMemStats(&after)
		if !fail.Is(err, fail.Damaged) || after.TotalAlloc-before.TotalAlloc > 300<<20 {
			t.Errorf("%s: %v, %d MiB allocated", name, err, (after.TotalAlloc-before.TotalAlloc)>>20)
		}
	}
}

// FuzzDecode: nothing makes a reader panic.
func FuzzDecode(f *testing.F) {
	b, err := Encode(sample())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := Decode(b); err == nil {
			_, _ = c.LoadState()
			_ = c.End()
		}
	})
}
