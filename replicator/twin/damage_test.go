package twin

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

// older is a log in which LSN n fills the volume's first block with n, an object
// each from position 2 on; bookmark b2 is at LSN 2, b5 at LSN 5.
func older(t *testing.T) *history {
	t.Helper()
	h := begun(t)
	h.control(streamA)
	for lsn := 1; lsn <= 7; lsn++ {
		h.frame(streamA, fill(2, 0, 4096, byte(lsn)))
		if lsn == 2 || lsn == 5 {
			h.command(state.KindBookmarkAdd, state.Bookmark{Name: fmt.Sprintf("b%d", lsn), Group: "g", Stream: streamA,
				LSN: uint64(lsn)})
		}
		h.segment()
	}
	return h
}

// at restores a point; the first byte says which LSN's image it is.
func at(h *history, point string) (lsn byte, err error) {
	l, err := Open(context.Background(), h.store, nil)
	if err != nil {
		return 0, err
	}
	v, err := l.Volume("vola")
	if err != nil {
		return 0, err
	}
	p, err := l.Resolve(context.Background(), v, point, time.Now())
	if err != nil {
		return 0, err
	}
	img := make(memory, v.SizeBytes)
	_, err = l.Restore(context.Background(), p, img)
	return img[0], err
}

// TestDamageKeepsOlderPoints: whatever happens to one object, the points before
// it are restored, and no later one is, nor a wrong one.
func TestDamageKeepsOlderPoints(t *testing.T) {
	h := older(t)
	check := func(what string, pos uint64) {
		t.Helper()
		for lsn := 1; lsn <= 7; lsn++ {
			held := uint64(lsn) + 1 // its object
			got, err := at(h, fmt.Sprint(lsn))
			if err == nil && got != byte(lsn) {
				t.Fatalf("%s: LSN %d restores to %d", what, lsn, got)
			}
			if held < pos && err != nil {
				t.Fatalf("%s: LSN %d: %v", what, lsn, err)
			}
			if err != nil && !strings.Contains(err.Error(), objlog.ObjectName(pos)) {
				t.Fatalf("%s: LSN %d: %v", what, lsn, err)
			}
		}
		if got, err := at(h, "b2"); (pos > 3 && (err != nil || got != 2)) || (err == nil && got != 2) {
			t.Fatalf("%s: bookmark b2: %d, %v", what, got, err)
		}
		got, err := at(h, "") // right in spite of the damage, or the reason and the way out
		if err == nil && got != 7 || err != nil &&
			(!strings.Contains(err.Error(), objlog.ObjectName(pos)) || fail.KindOf(err) != fail.Damaged) {
			t.Fatalf("%s: the newest point: %d, %v", what, got, err)
		}
	}
	for pos := uint64(2); pos < h.pos; pos++ {
		body, err := os.ReadFile(h.file(pos))
		if err != nil {
			t.Fatal(err)
		}
		for off := 0; off < len(body); off += 1 + off%11 {
			h.flip(pos, off)
			check(fmt.Sprintf("byte %d of position %d", off, pos), pos)
			h.flip(pos, off)
		}
		if pos+1 < h.pos { // the newest one's loss cannot be told
			h.remove(pos)
			check(fmt.Sprintf("without position %d", pos), pos)
			h.put(pos, body)
		}
	}
}

// TestDamageHint: the error of a point beyond the damage says which are left.
func TestDamageHint(t *testing.T) {
	h := older(t)
	h.remove(5) // LSN 4
	for _, point := range []string{"", "4", "7", "b5", "-0s", "2030-01-01T00:00:00Z"} {
		_, err := at(h, point)
		if !fail.Is(err, fail.Damaged) || !strings.Contains(err.Error(), objlog.ObjectName(5)) ||
			!strings.Contains(fail.HintOf(err), "LSN 1 to 3") {
			t.Errorf("--at %q: %v, hint %q", point, err, fail.HintOf(err))
		}
	}
	if _, err := at(h, "x y"); !fail.Is(err, fail.Damaged) {
		t.Errorf("an unknown bookmark: %v", err)
	}
	if got, err := at(h, h.clock.Add(-5*time.Second).Format(time.RFC3339Nano)); err != nil || got != 2 {
		t.Errorf("a time before the damage: %d, %v", got, err)
	}
}

// TestDamageBeforeFence: a readable fence behind the damage still cuts off the
// dead branch before it.
func TestDamageBeforeFence(t *testing.T) {
	h := older(t)
	branch := h.fork(token(2, 1, 2))
	branch.next -= 3 // LSN 5, its bookmark and 6, 7 are six entries: b5 follows its frame
	l := h.mustOpen()
	branch.points = map[change.StreamID]change.Point{streamA: l.pointAt(streamA, 5)}
	branch.fence(branch.next)
	branch.frame(streamA, fill(2, 0, 4096, 99))
	branch.segment()
	if got, err := at(branch, ""); err != nil || got != 99 {
		t.Fatalf("the new branch: %d, %v", got, err)
	}
	branch.remove(8) // LSN 7, of the dead branch
	if got, err := at(branch, "4"); err != nil || got != 4 {
		t.Errorf("LSN 4: %d, %v", got, err)
	}
	if got, err := at(branch, "6"); err == nil {
		t.Errorf("LSN 6 of the dead branch restores to %d", got)
	}
}

// TestUnreadableObject: a bad sector, or one forbidden object, is that object's
// trouble, and no older point's.
func TestUnreadableObject(t *testing.T) {
	h := older(t)
	h.store = badSector{h.store}
	for _, point := range []string{"2", "b2", "4"} {
		if got, err := at(h, point); err != nil || (got != 2 && got != 4) {
			t.Errorf("--at %s: %d, %v", point, got, err)
		}
	}
	for _, point := range []string{"", "6", "7"} {
		if _, err := at(h, point); !fail.Is(err, fail.Retry) || !strings.Contains(err.Error(), objlog.ObjectName(7)) {
			t.Errorf("--at %q: %v", point, err)
		}
	}
}

// badSector cannot read position 7, which holds LSN 6.
type badSector struct{ objstore.Store }

func (s badSector) Read(ctx context.Context, name string, off, n int64, buf []byte) ([]byte, error) {
	if name == objlog.ObjectName(7) {
		return nil, fail.New(fail.Retry, "read", name, "input/output error")
	}
	return s.Store.Read(ctx, name, off, n, buf)
}

// TestDamagedFence: a later writer's segment proves the dead branch where its
// fence cannot be read.
func TestDamagedFence(t *testing.T) {
	h := older(t)
	branch := h.fork(token(2, 1, 2))
	branch.next -= 3
	branch.points = map[change.StreamID]change.Point{streamA: h.mustOpen().pointAt(streamA, 5)}
	branch.fence(branch.next) // position 9
	branch.frame(streamA, fill(2, 0, 4096, 99))
	branch.segment()
	branch.remove(9)
	if got, err := at(branch, "5"); err != nil || got != 5 {
		t.Errorf("LSN 5: %d, %v", got, err)
	}
	for _, lsn := range []string{"6", "7"} {
		if got, err := at(branch, lsn); err == nil {
			t.Errorf("LSN %s of the dead branch restores to %d", lsn, got)
		}
	}
}
