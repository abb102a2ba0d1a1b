package twin

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/state"
)

func (l *Log) pointAt(id change.StreamID, lsn uint64) change.Point {
	for _, f := range l.Frames[id] {
		if e := f.entry(); e.LastLSN == lsn {
			return change.Point{LSN: lsn, Hash: e.Hash}
		}
	}
	return change.Point{}
}

func examine(t testing.TB, h *history) (map[uint64]*Object, *Totals) {
	t.Helper()
	found := map[uint64]*Object{}
	totals, err := Examine(context.Background(), h.store, func(o *Object) error {
		c := *o
		found[o.Position] = &c
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found, totals
}

func TestExamine(t *testing.T) {
	h := begun(t)
	h.control(streamA, streamB)
	h.frame(streamA, fill(2, 0, 512, 1), change.Change{Kind: change.Trim, Volume: 2, Len: 8192})
	h.frame(streamB, fill(4, 0, 1024, 1))
	h.segment()
	h.frame(streamA, fill(2, 0, 512, 1))
	h.command(state.KindHeartbeat, state.Heartbeat{})
	h.segment()
	found, totals := examine(t, h)
	if totals.Err() != nil || totals.Objects != 4 || totals.LastIndex != 11 || totals.Commands != 8 ||
		totals.Epoch != 1 {
		t.Errorf("%+v, %v", totals, totals.Err())
	}
	if diff := cmp.Diff(map[string]int{"identity": 1, "fence": 1, "segment": 2}, totals.Types); diff != "" {
		t.Error(diff)
	}
	a := totals.Streams[0]
	if a.Stream != streamA || a.FirstLSN != 1 || a.LastLSN != 3 || a.Frames != 2 || a.Records != 3 ||
		a.PlainBytes != 1024 ||
		a.Kinds["write"] != 2 || a.Kinds["trim"] != 1 || len(totals.Streams) != 2 {
		t.Errorf("%+v", a)
	}
	if o := found[2]; len(o.Commands) != 7 || o.Commands[0].Kind != "group-put" || o.Commands[0].Index != 1 ||
		len(o.Streams) != 2 {
		t.Errorf("%d commands, %d streams", len(o.Commands), len(o.Streams))
	}
}

// TestExamineDamage flips bytes all over every object (package segment's tests
// flip each): the object is named with
// an offset, and the others are still told, whatever is damaged. A restore gives
// the same image as before, or names the object too.
func TestExamineDamage(t *testing.T) {
	h := begun(t)
	h.control(streamA)
	h.frame(streamA, fill(2, 0, 100, 1))
	h.segment()
	h.frame(streamA, fill(2, 50, 100, 2))
	h.segment()
	want := imageOf(t, h.mustOpen())
	for pos := range h.pos {
		orig, err := os.ReadFile(h.file(pos))
		if err != nil {
			t.Fatal(err)
		}
		for off := 0; off < len(orig); off += 1 + off%5 {
			h.flip(pos, off)
			found, totals := examine(t, h)
			o := found[pos]
			if len(found) != 4 || totals.Damaged == 0 || o.Err == nil ||
				!strings.Contains(o.Err.Error(), objlog.ObjectName(pos)) ||
				(!strings.Contains(o.Err.Error(), "at byte") && !fail.Is(o.Err, fail.Unsupported)) {
				t.Fatalf("position %d byte %d: %v", pos, off, o.Err)
			}
			for p, other := range found {
				if p != pos && other.Err != nil {
					t.Fatalf("position %d byte %d: position %d is blamed: %v", pos, off, p, other.Err)
				}
			}
			if img, err := tryImage(h); err == nil && string(img) != string(want) {
				t.Fatalf("position %d byte %d: another image", pos, off)
			} else if err != nil && !strings.Contains(err.Error(), objlog.ObjectName(pos)) {
				t.Fatalf("position %d byte %d: restore: %v", pos, off, err)
			}
			h.flip(pos, off)
		}
	}
}

func imageOf(t testing.TB, l *Log) []byte {
	t.Helper()
	v, err := l.Volume("vola")
	if err != nil {
		t.Fatal(err)
	}
	p, err := l.Resolve(context.Background(), v, "", epochStart)
	if err != nil {
		t.Fatal(err)
	}
	return image(t, l, p)
}

func tryImage(h *history) ([]byte, error) {
	l, err := Open(context.Background(), h.store, nil)
	if err != nil {
		return nil, err
	}
	v, err := l.Volume("vola")
	if err != nil {
		return nil, err
	}
	p, err := l.Resolve(context.Background(), v, "", epochStart)
	if err != nil {
		return nil, err
	}
	img := make(memory, v.SizeBytes)
	_, err = l.Restore(context.Background(), p, img)
	return img, err
}

// TestExamineChain: a frame that does not continue the chain of hashes is found
// although every checksum is right.
func TestExamineChain(t *testing.T) {
	h := started(t)
	p := h.points[streamA]
	p.Hash[3]++
	h.points[streamA] = p
	h.frame(streamA, fill(2, 0, 512, 2))
	h.segment()
	found, totals := examine(t, h)
	if !fail.Is(totals.Err(), fail.Damaged) || found[3].Standing != Damaged ||
		!strings.Contains(totals.Err().Error(), "follows hash") {
		t.Errorf("%v", totals.Err())
	}
	if _, err := tryImage(h); !fail.Is(err, fail.Damaged) || !strings.Contains(err.Error(), "follows hash") {
		t.Errorf("restore: %v", err)
	}
}

// TestExamineFence: a fence that goes on from another history than the log's.
func TestExamineFence(t *testing.T) {
	h := started(t)
	h.token = token(1, 2, 2)
	h.points[streamA] = change.Point{LSN: 1, Hash: change.Hash{1}}
	h.fence(h.next)
	if found, totals := examine(t, h); totals.Damaged != 1 || !fail.Is(found[3].Err, fail.Damaged) {
		t.Errorf("%v", totals.Err())
	}
}

// TestExamineDead: entries that a later fence cut off are told, and not counted.
func TestExamineDead(t *testing.T) {
	h := started(t)
	h.frame(streamA, fill(2, 0, 512, 2))
	branch := h.fork(token(2, 1, 2))
	branch.next++
	h.frame(streamA, fill(2, 0, 512, 66))
	h.segment()
	h.frame(streamA, fill(2, 0, 512, 67))
	h.segment()
	branch.pos = h.pos
	branch.fence(branch.next)
	branch.frame(streamA, fill(2, 0, 512, 3))
	branch.segment()
	found, totals := examine(t, branch)
	if totals.Err() != nil || found[3].DeadFrom != 7 || found[4].DeadFrom != 8 || found[6].DeadFrom != 0 {
		t.Errorf("dead from %d, %d, %d: %v", found[3].DeadFrom, found[4].DeadFrom, found[6].DeadFrom, totals.Err())
	}
	if s := totals.Streams[0]; s.LastLSN != 3 || s.Frames != 3 || totals.LastIndex != 7 || totals.Epoch != 2 {
		t.Errorf("%+v", totals)
	}
}
