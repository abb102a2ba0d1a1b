package twin

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
)

// resolvable has a volume that is complete from LSN 3 on. Its frames end at
// seconds 1 (LSN 2), 2 (LSN 4), 3 (LSN 5) and 4 (LSN 7).
func resolvable(t *testing.T) *Log {
	h := begun(t)
	h.command(state.KindGroupPut, state.Group{Name: "g"})
	h.command(state.KindStreamCreate, state.Stream{ID: streamA, Group: "g", Agent: "a"})
	h.command(state.KindStreamCreate, state.Stream{ID: streamB, Group: "g", Agent: "b"})
	for _, name := range []string{"v", "syncing"} {
		h.command(state.KindVolumeCreate,
			state.Volume{Name: name, Group: "g", Stream: streamA, Agent: "a", SizeBytes: 1 << 20, Backing: name,
				Created: epochStart})
	}
	h.command(state.KindVolumeCreate,
		state.Volume{Name: "empty", Group: "g", Stream: streamB, Agent: "b", SizeBytes: 1 << 20, Backing: "e",
			Created: epochStart})
	h.command(state.KindVolumeReady, state.VolumeReady{Name: "empty"})
	h.command(state.KindVolumeReady, state.VolumeReady{Name: "v", FirstLSN: 3})
	for _, records := range []int{2, 2, 1, 2} {
		var c []change.Change
		for i := range records {
			c = append(c, fill(3, int64(i)*512, 512, 1))
		}
		h.frame(streamA, c...)
	}
	for name, lsn := range map[string]uint64{"noon": 5, "early": 1, "later": 9} {
		h.command(state.KindBookmarkAdd, state.Bookmark{Name: name, Group: "g", Stream: streamA, LSN: lsn})
	}
	h.command(state.KindBookmarkAdd, state.Bookmark{Name: "other", Group: "g", Stream: streamB, LSN: 1})
	h.segment()
	return h.mustOpen()
}

func TestResolve(t *testing.T) {
	l := resolvable(t)
	now := epochStart.Add(10 * time.Second)
	at := func(d time.Duration) string { return epochStart.Add(d).Format(time.RFC3339Nano) }
	for _, tt := range []struct {
		volume, at string
		lsn        uint64
		kind       fail.Kind
		text       string
	}{
		{"v", "", 7, 0, ""},
		{"v", "7", 7, 0, ""},
		{"v", "6", 6, 0, ""},
		{"v", "3", 3, 0, ""},
		{"v", "003", 3, 0, ""},
		{"v", "2", 0, fail.Refused, "initial sync"},
		{"v", "0", 0, fail.Refused, "initial sync"},
		{"v", "8", 0, fail.NotFound, "no such LSN"},
		{"v", "99999999999999999999999", 0, fail.NotFound, "no such LSN"},
		{"v", at(2 * time.Second), 4, 0, ""},
		{"v", at(2*time.Second - 1), 0, fail.Refused, "initial sync"}, // LSN 2
		{"v", at(3*time.Second - 1), 4, 0, ""},
		{"v", at(3500 * time.Millisecond), 5, 0, ""},
		{"v", at(time.Hour), 7, 0, ""},
		{"v", at(-time.Hour), 0, fail.NotFound, "before the volume was protected"},
		{"v", "2026-01-01T01:00:03+01:00", 5, 0, ""},
		{"v", "-7s", 5, 0, ""},
		{"v", "-6.5s", 5, 0, ""},
		{"v", "-0s", 7, 0, ""},
		{"v", "-10m", 0, fail.NotFound, "before the volume"},
		{"v", "-", 0, fail.Invalid, "neither"},
		{"v", "--10m", 0, fail.Invalid, "neither"},
		{"v", "-ten", 0, fail.Invalid, "neither"},
		{"v", "2026-01-01", 0, fail.Invalid, "neither"},
		{"v", "3rd", 0, fail.Invalid, "neither"},
		{"v", "noon", 5, 0, ""},
		{"v", "early", 0, fail.Refused, "initial sync"},
		{"v", "later", 0, fail.NotFound, "not in the log"},
		{"v", "other", 0, fail.NotFound, "not in the log"},
		{"v", "nowhere", 0, fail.NotFound, "no such bookmark in group g"},
		{"syncing", "", 0, fail.Refused, "initial sync"},
		{"syncing", "5", 0, fail.Refused, "initial sync"},
		{"empty", "", 0, 0, ""},
		{"empty", "0", 0, 0, ""},
		{"empty", "1", 0, fail.NotFound, "no such LSN"},
		{"empty", "-5s", 0, 0, ""},
		{"empty", at(-time.Second), 0, fail.NotFound, "before the volume"},
	} {
		v, err := l.Volume(tt.volume)
		if err != nil {
			t.Fatal(err)
		}
		p, err := l.Resolve(context.Background(), v, tt.at, now)
		switch {
		case tt.kind == 0 && (err != nil || p.LSN != tt.lsn || p.Volume != v || p.Epoch != 1):
			t.Errorf("%s at %q: LSN %d, %v; want %d", tt.volume, tt.at, p.LSN, err, tt.lsn)
		case tt.kind != 0 && (!fail.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.text) ||
			fail.HintOf(err) == ""):
			t.Errorf("%s at %q: %v, want %v %q", tt.volume, tt.at, err, tt.kind, tt.text)
		}
	}
	if _, err := l.Volume("nobody"); !fail.Is(err, fail.NotFound) || fail.HintOf(err) == "" {
		t.Errorf("unknown volume: %v", err)
	}
}

// TestResolveTime: a point knows when it was.
func TestResolveTime(t *testing.T) {
	l := resolvable(t)
	v, _ := l.Volume("v")
	for at, want := range map[string]time.Duration{"": 4 * time.Second, "7": 4 * time.Second, "6": 4 * time.Second,
		"5": 3 * time.Second, "3": 2 * time.Second} {
		p, err := l.Resolve(context.Background(), v, at, epochStart)
		if err != nil || !p.Time.Equal(epochStart.Add(want)) {
			t.Errorf("%q: %v, %v", at, p.Time, err)
		}
	}
	e, _ := l.Volume("empty")
	if p, err := l.Resolve(context.Background(), e, "", epochStart); err != nil || !p.Time.Equal(epochStart) {
		t.Errorf("empty volume: %v, %v", p.Time, err)
	}
	if r, ok := l.RangeOf(streamA); !ok || r.FirstLSN != 1 || r.LastLSN != 7 ||
		!r.FirstTime.Equal(epochStart.Add(time.Second/2)) {
		t.Errorf("range %+v", r)
	}
	if _, ok := l.RangeOf(streamB); ok {
		t.Error("a stream without frames has a range")
	}
}

// TestControlReplay: the state of the bucket is the state of the journal, and
// grows with the log.
func TestControlReplay(t *testing.T) {
	h := begun(t)
	h.control(streamA)
	h.segment()
	h.frame(streamA, fill(2, 0, 512, 1))
	h.command(state.KindHeartbeat, state.Heartbeat{})
	h.command(state.KindLease, state.LeaseGrant{Stream: streamA, Agent: "a", Epoch: 1})
	h.segment()
	h.command(state.KindGroupPut, state.Group{Name: "g", Ack: "remote"})
	h.command(state.KindVolumeRemove, state.VolumeRemove{Name: "vola"})
	h.segment()
	s := h.mustOpen().State
	if g, v, st := s.Groups["g"], s.Volumes["vola"], s.Streams[streamA]; g.Ack != "remote" || !v.Removed || !v.Ready ||
		v.Number != 2 ||
		st.Lease.Number != 1 || st.Number != 1 {
		t.Errorf("%+v %+v %+v", g, v, st)
	}
	h.remove(4) // the log's newest: nobody can know that it was there
	if s := h.mustOpen().State; s.Volumes["vola"].Removed || s.Streams[streamA].Lease.Number != 1 {
		t.Error("a shorter log has another state than it had then")
	}
}

// TestPointsOf: what is listed is what Resolve takes.
func TestPointsOf(t *testing.T) {
	h := begun(t)
	h.control(streamA)
	h.frame(streamA, fill(2, 0, 4096, 1))
	h.segment() // LSN 1
	h.folding = true
	h.frame(streamA, fill(2, 0, 4096, 2))
	h.frame(streamA, fill(2, 0, 4096, 3))
	h.segment() // 2, 3 folded
	h.frame(streamA, fill(2, 0, 4096, 4))
	h.frame(streamA, fill(2, 0, 4096, 5))
	h.segment() // 4, 5 too
	h.folding = false
	h.frame(streamA, fill(2, 0, 1, 6), change.Change{Kind: change.Mark, Data: [][]byte{[]byte("b")}})
	h.command(state.KindBookmarkAdd, state.Bookmark{Name: "b", Group: "g", Stream: streamA, LSN: 7, Time: epochStart})
	h.command(state.KindBookmarkAdd,
		state.Bookmark{Name: "later", Group: "g", Stream: streamA, LSN: 999, Time: epochStart.Add(time.Hour)})
	h.segment()
	h.leap(streamA, 10)
	gapEnd := h.points[streamA]
	h.frame(streamA, fill(2, 0, 1, 7))
	h.segment() // 18, not a point
	l := h.mustOpen()
	v := l.State.Volumes["vola"]
	p := l.PointsOf(context.Background(), v)
	if p.First.LSN != 1 || p.Newest.LSN != 7 || !p.Ready || len(p.Breaks) != 1 || p.Breaks[0].Until != nil ||
		p.Breaks[0].After.LSN != 7 {
		t.Errorf("%+v", p)
	}
	if len(p.Coarse) != 1 || p.Coarse[0].First.LSN != 2 || p.Coarse[0].Last.LSN != 5 || p.Coarse[0].Points != 2 {
		t.Errorf("%+v", p.Coarse)
	}
	if len(p.Bookmarks) != 2 || !p.Bookmarks[0].InLog || p.Bookmarks[1].InLog {
		t.Errorf("%+v", p.Bookmarks)
	}
	h.command(state.KindResyncEnd, state.ResyncEnd{Stream: streamA, To: gapEnd, LSN: 18})
	h.segment()
	l = h.mustOpen()
	if p = l.PointsOf(context.Background(), v); p.Newest.LSN != 18 || p.Breaks[0].Until == nil ||
		p.Breaks[0].Until.LSN != 18 {
		t.Errorf("after the resync: %+v", p)
	}
	for _, at := range []uint64{p.First.LSN, p.Newest.LSN, p.Coarse[0].Last.LSN, p.Breaks[0].After.LSN,
		p.Breaks[0].Until.LSN} {
		if _, err := l.Resolve(context.Background(), v, fmt.Sprint(at), epochStart); err != nil {
			t.Errorf("LSN %d is listed as a point: %v", at, err)
		}
	}
}
