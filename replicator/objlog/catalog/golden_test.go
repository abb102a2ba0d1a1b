package catalog

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/golden"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
)

// goldenCatalog has something of everything that a catalog may have.
func goldenCatalog() *Catalog {
	now := time.Date(2026, 11, 20, 10, 5, 30, 123456789, time.UTC)
	at := func(lsn uint64) At {
		return At{Point: change.Point{LSN: lsn, Hash: change.Hash{byte(lsn)}}, Time: int64(lsn) * 1e9,
			Written: int64(lsn)*1e9 + 5}
	}
	token := func(term uint64) segment.Token {
		return segment.Token{Epoch: 1, Term: term, Writer: uuid.UUID{byte(term)}}
	}
	part := extent.MapObject{Name: "map/0000000002/00000000000000000005-ab-0", Bytes: 500, FirstLeaf: 1, LastLeaf: 7,
		Extents: 3, LiveBytes: 12288}
	return &Catalog{
		Number: 7, Journal: uuid.UUID{1}, Created: now,
		State: map[string]json.RawMessage{
			"group/db":   json.RawMessage(`{"name":"db","ack":"local","overflow":"throttle","pitr":"fold"}`),
			"volume/log": json.RawMessage(`{"name":"log","number":2,"group":"db","size_bytes":4096,"ready":true}`),
		},
		ReadPoints: []ReadPoint{
			{Position: 4, Index: 9, Token: token(2), Durable: 3, Time: now},
			{Position: 10, Index: 30, Token: token(2), Durable: 9, Time: now,
				Streams: map[change.StreamID]At{streamA: at(5)}},
			{Position: 20, Index: 60, Token: token(3), Durable: 19, Time: now,
				Streams: map[change.StreamID]At{streamA: at(9)}},
		},
		Streams: map[change.StreamID]*Stream{streamA: {
			Retained: []RetainedPoint{{At: at(5)}, {At: at(7), Bookmark: "before-upgrade"}, {At: at(9)}},
			Coarse:   []Coarse{{FirstLSN: 2, LastLSN: 5, FirstTime: 2e9, LastTime: 5e9, Points: 2}},
			Volumes: map[uint32]*Volume{2: {Layers: []Layer{
				{Whole: true, To: 5, Objects: []extent.MapObject{part}}, {From: 5, To: 7}, {From: 0, To: 9,
					Objects: []extent.MapObject{part}},
			}}},
		}},
		Packs:  []Pack{{Number: 5<<31 + 7, Bytes: 5000, Moved: []objlog.ObjectID{3, 9, objlog.InPack(2 << 31)}}},
		Fences: []Fence{{Position: 12, From: 11}},
		Dead:   map[string]time.Time{"log/00000000000000000001": now, "catalog/00000000000000000002": now},
		Locked: []Locked{{At: now, Until: now.Add(time.Hour), For: time.Hour, Mode: "governance"}},
	}
}

// goldenChecked is goldenCatalog with what has come since: writers that check their tails.
func goldenChecked() *Catalog {
	c := goldenCatalog()
	c.ReadPoints[2].ChecksTail = true
	c.Fences = append(c.Fences, Fence{Position: 18, From: 17, ChecksTail: true, Passed: c.Created.Add(time.Hour)})
	return c
}

// TestGoldenCatalog: the catalog of an earlier build says what it said. Its control state
// is as replicator/state saved it, and is held against that there.
func TestGoldenCatalog(t *testing.T) {
	golden.Filled(t, goldenChecked())
	for name, want := range map[string]*Catalog{"catalog": goldenCatalog(), "catalog-2": goldenChecked()} {
		b := golden.Kept(t, name, func() []byte {
			b, err := Encode(want)
			if err != nil {
				t.Fatal(err)
			}
			return b
		})
		c, err := Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, c); diff != "" {
			t.Errorf("%s means something else: %s", name, diff)
		}
		s, err := c.LoadState()
		if err != nil || s.Groups["db"] == nil || s.Volumes["log"] == nil || !s.Volumes["log"].Ready {
			t.Errorf("the state of %s is another one: %v", name, err)
		}
		// Catalogs are compressed, so that their plain form is what this build must still write.
		today, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		golden.Same(t, name+".json", today)
	}
}
