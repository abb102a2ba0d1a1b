package standby

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/gc"
)

// TestTwoFencesGoBack: a standby that was away while two fences went back, the later one further,
// has nothing of what either cut off.
func TestTwoFencesGoBack(t *testing.T) {
	for _, gap := range []bool{false, true} {
		r := begun(t)
		a := r.log.Here()
		r.log.Frame(r.page(1, 'a'))
		r.log.Segment()
		if gap {
			r.log.Leap(5)
			r.log.Frame(r.page(4, 'g'))
			r.log.EndLeap()
			r.log.Segment()
		}
		b := r.log.Here()
		r.log.Frame(r.page(2, 'b'))
		r.log.Segment()
		r.must(r.settle())
		r.newest(1)
		r.log.GoBack(b)
		r.log.Frame(r.page(3, 'c'))
		r.log.Segment()
		r.log.GoBack(a)
		for range 12 {
			r.log.Frame(r.page(5, 'd'))
		}
		r.log.Segment()
		r.must(r.settle())
		r.newest(1)
		if r.disk.copies != 1 {
			t.Errorf("gap %v: %d copies", gap, r.disk.copies)
		}
	}
}

// TestHeldOfNobody: what is held of a resync while no image of its stream follows is not missing
// from one that follows again.
func TestHeldOfNobody(t *testing.T) {
	for _, ends := range []bool{false, true} {
		r := begun(t)
		r.log.Frame(r.page(1, 'a'))
		r.log.Leap(3)
		r.log.Frame(r.page(2, 'b'))
		r.log.Segment()
		r.disk.fail = errors.New("no")
		if r.settle() == nil || len(r.s.cur.stream(r.log.Stream).Held) == 0 || r.s.cur.Volumes["a"].Following {
			t.Fatalf("%+v", r.s.cur.stream(r.log.Stream))
		}
		r.log.Command(state.KindHeartbeat, state.Heartbeat{})
		r.log.Volume("b", rigVolume)
		if ends {
			r.log.EndLeap()
		}
		r.log.Segment()
		_ = r.settle() // it fails still
		r.disk.fail = nil
		r.must(r.settle())
		r.check()
		r.log.Frame(r.page(3, 'c'))
		if !ends {
			r.log.EndLeap()
		}
		r.log.Frame(r.page(4, 'd'))
		r.log.Segment()
		r.must(r.settle())
		r.newest(2)
	}
}

// beyond is a rig of which the image was brought beyond the cursor, to a point that a fence has cut off since.
func beyond(t *testing.T) *rig {
	t.Helper()
	r := begun(t)
	r.log.Frame(r.page(1, 'a'))
	r.log.Segment()
	from := r.log.Here()
	for i := range int64(5) {
		r.log.Frame(r.page(2+i, 'b'))
	}
	r.log.Segment()
	l, err := twin.Open(t.Context(), r.store, nil)
	r.must(err)
	p, err := l.Resolve(t.Context(), l.State.Volumes["a"], "", r.now)
	r.must(err)
	for _, v := range r.s.cur.Volumes { // as where its image could not be written for a while
		at := r.s.cur.stream(v.Stream).Applied
		v.Following, v.Low, v.High, v.Hash = false, at.LSN, at.LSN, at.Hash
	}
	j, err := r.s.jobOf("a")
	r.must(err)
	plan, err := r.s.plan(t.Context(), l, p, j)
	r.must(err)
	r.must(r.s.difference(t.Context(), l, plan, j, r.s.updateLocked))
	r.must(plan.Close())
	r.log.GoBack(from)
	return r
}

// TestCutOffUnseen: an image that was brought beyond the cursor, to a point that a fence has cut off and
// whose objects are freed before the cursor gets there, is copied anew: nobody waits for its point.
func TestCutOffUnseen(t *testing.T) {
	r := beyond(t)
	r.log.Frame(r.page(1, 'c'))
	r.log.Segment()
	r.must(r.s.rebase(t.Context())) // as where gc has freed all that comes next
	r.must(r.settle())
	r.newest(1)
	if r.disk.copies != 2 {
		t.Errorf("%d copies", r.disk.copies)
	}
}

// TestBookmarkAtTheEnd: the last frame of a stream that is idle is a bookmark's, and a catalog is made. A
// volume that does not follow just then is brought to that point, and is not copied anew for it.
func TestBookmarkAtTheEnd(t *testing.T) {
	r := begun(t)
	r.log.Frame(r.page(1, 'a'))
	r.log.Bookmark("b")
	r.log.Segment()
	r.must(r.settle())
	r.newest(1)
	_, err := gc.Catalog(t.Context(), r.store, gc.Options{Dir: t.TempDir(), Now: func() time.Time { return r.now }})
	r.must(err)
	r.must(r.s.rebase(t.Context()))
	r.must(r.settle())
	r.newest(1)
	if r.disk.copies != 1 {
		t.Errorf("%d copies", r.disk.copies)
	}
}

// TestCopiedBeforeTheFence: the power is cut after an image was copied and before the cursor says so, and
// then a fence goes back behind its point. What is there is not taken for the point of the same LSN.
func TestCopiedBeforeTheFence(t *testing.T) {
	r := newRig(t)
	path := filepath.Join(t.TempDir(), "a.img")
	r.o.Want = func(*state.State) []Volume { return []Volume{{Name: "a", Path: path}} }
	r.log.Volume("a", rigVolume)
	r.log.Frame(r.page(0, 'x'))
	r.log.Segment()
	from := r.log.Here()
	r.log.Frame(r.page(1, 'a'))
	r.log.Segment()
	r.open()
	r.s.o.disk = osDisk{}
	_, err := r.s.step(t.Context())
	r.must(err)
	j, err := r.s.jobOf("a")
	r.must(err)
	l, err := twin.Open(t.Context(), r.store, nil)
	r.must(err)
	p, err := r.s.newest(t.Context(), l, j)
	r.must(err)
	r.must(r.s.updateLocked(j, func(v *volumeCursor) { v.Begun = true }))
	_, err = osDisk{}.Copy(t.Context(), l, p, path, false, copyRun{})
	r.must(err)
	r.log.GoBack(from)
	r.log.Frame(r.page(2, 'b'))
	r.log.Segment()
	r.open()
	r.s.o.disk = osDisk{}
	r.must(r.settle())
	if !r.s.cur.Volumes["a"].Following {
		t.Fatalf("%+v", r.s.Status())
	}
	b, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(b, r.log.Images["a"]) {
		t.Errorf("the image follows, and differs from the volume at byte %d, %v", differ(b, r.log.Images["a"]), err)
	}
}

// TestTracedBranchOnly: an image was brought beyond the cursor to a point that a fence has cut off unseen,
// and then another fence goes back, whose branch can be traced. Of the first one nothing is left in it.
func TestTracedBranchOnly(t *testing.T) {
	r := beyond(t)
	r.log.Frame(r.page(1, 'c'))
	r.log.Segment()
	second := r.log.Here()
	r.log.Frame(r.page(9, 'd'))
	r.log.Segment()
	r.must(r.s.rebase(t.Context())) // as where gc has freed all that comes next
	r.log.GoBack(second)
	r.log.Frame(r.page(10, 'e'))
	r.log.Segment()
	for range 3 { // the copier is not at it yet
		_, err := r.s.step(t.Context())
		r.must(err)
	}
	r.must(r.settle())
	r.newest(1)
}

// TestAnotherOfTheNumber: a fence cuts off that a volume was created, and one of the same name and number is
// created anew: in another stream, or of another size. The image of the first is not taken for its.
func TestAnotherOfTheNumber(t *testing.T) {
	for _, other := range []bool{false, true} {
		r := newRig(t)
		second := uuid.MustParse("20000000-0000-0000-0000-00000000000b")
		r.log.Volume("a", rigVolume)
		r.log.Command(state.KindGroupPut, state.Group{Name: "h", Ack: "local", Overflow: "throttle",
			PITR: state.PITRFold})
		r.log.Command(state.KindStreamCreate, state.Stream{ID: second, Group: "h", Agent: "a"})
		r.log.Frame(r.page(0, 'x'))
		r.log.Segment()
		from := r.log.Here()
		r.log.Volume("b", rigVolume)
		r.log.Volumes["b"]++ // the stream has a number
		r.log.Frame(r.log.Write("b", 0, []byte("dead")))
		r.log.Segment()
		r.open()
		r.must(r.settle())
		r.newest(2)
		r.log.GoBack(from)
		v := state.Volume{Name: "b", Group: "g", Stream: r.log.Stream, Agent: "a", SizeBytes: 2 * rigVolume,
			Backing: "/b"}
		if other {
			v.Group, v.Stream, v.SizeBytes = "h", second, rigVolume
		}
		r.log.Command(state.KindVolumeCreate, v)
		r.log.Command(state.KindVolumeReady, state.VolumeReady{Name: "b"})
		r.log.Frame(r.page(1, 'y'))
		r.log.Segment()
		err := r.settle()
		if !fail.Is(err, fail.Refused) || r.s.cur.Volumes["b"].Following {
			t.Errorf("another stream %v: the image of another volume: %v, %+v", other, err, r.s.cur.Volumes["b"])
		}
		if at := r.check(); at["a"] != r.log.Point.LSN {
			t.Errorf("%v", at)
		}
	}
}
