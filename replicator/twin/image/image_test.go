package image

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/logtest"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
)

const restoreBytes = 4 << 20

func restoreLog(t *testing.T) *logtest.Log {
	url := "file://" + t.TempDir()
	s, err := objstore.Open(t.Context(), url, objstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	l := logtest.New(t, s)
	l.Volume("v", restoreBytes)
	for off := int64(0); off < restoreBytes; off += 256 << 10 {
		l.Frame(l.Write("v", off, bytes.Repeat([]byte{1}, 256<<10)))
	}
	l.Keep()
	l.Segment()
	for off := int64(0); off < restoreBytes; off += 512 << 10 {
		l.Frame(l.Write("v", off, bytes.Repeat([]byte{2}, 256<<10)))
	}
	l.Keep()
	l.Segment()
	return l
}

// run restores the volume as `pollux restore` does; "" is the newest point.
func run(t *testing.T, l *logtest.Log, out, at string, o Options) error {
	t.Helper()
	in, err := twin.Open(t.Context(), l.Store, nil)
	if err != nil {
		t.Fatal(err)
	}
	v, _ := in.Volume("v")
	p, err := in.Resolve(t.Context(), v, at, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	tg, err := Inspect(out, v.SizeBytes)
	if err == nil {
		err = tg.Refused(o.Overwrite)
	}
	if err == nil {
		_, err = Restore(t.Context(), in, p, tg, o)
	}
	t.Logf("restore %+v: %v", o, err)
	return err
}

func restorePlan(t *testing.T, l *logtest.Log, lsn uint64) (*twin.Log, twin.Point, *twin.Plan) {
	in, err := twin.Open(t.Context(), l.Store, nil)
	if err != nil {
		t.Fatal(err)
	}
	v, _ := in.Volume("v")
	p, err := in.Resolve(t.Context(), v, fmt.Sprint(lsn), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pl, err := in.Plan(t.Context(), p, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pl.Close() })
	return in, p, pl
}

// TestRestoreVerify: --verify finds a difference; the same command again takes the image as good.
func TestRestoreVerify(t *testing.T) {
	l := restoreLog(t)
	out := filepath.Join(t.TempDir(), "v.img")
	in, p, pl := restorePlan(t, l, l.Point.LSN)
	tg, err := Inspect(out, restoreBytes)
	if err != nil {
		t.Fatal(err)
	}
	// writeTarget, with a disk that lies:
	save := newSaver(tg, p.Volume, pl.Left())
	save.hashes = map[uint64]change.Hash{p.LSN: l.Point.Hash}
	if err := tg.open(false, save.save); err != nil {
		t.Fatal(err)
	}
	if _, err := pl.Restore(t.Context(), tg, twin.Run{Done: save.reached}); err != nil {
		t.Fatal(err)
	}
	if _, err := tg.file.WriteAt([]byte("the disk lies"), 1<<20); err != nil {
		t.Fatal(err)
	}
	err = verify(t.Context(), in, p, tg, &Options{})
	t.Log("verify:", err)
	err = tg.interrupted(err, save)
	t.Log("interrupted:", err)
	b, _ := os.ReadFile(tg.statePath())
	t.Logf("%s", b)
	if err := run(t, l, out, "", Options{Verify: true}); err != nil {
		t.Log("again with --verify: it fails for ever")
	}
	if err := run(t, l, out, "", Options{}); err != nil {
		t.Fatal(err)
	}
	got, _ := os.ReadFile(out)
	if !bytes.Equal(got, l.Images["v"]) {
		t.Error("a restore that says it is good left wrong bytes")
	}
}

// a device's state of an earlier restore stays while the device is made zeros.
func TestRestoreDevice(t *testing.T) {
	l := restoreLog(t)
	_, p, _ := restorePlan(t, l, l.Point.LSN)
	path := filepath.Join(t.TempDir(), "dev")
	if err := os.WriteFile(path, make([]byte, restoreBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	tg := &Target{Path: path, Size: restoreBytes, have: restoreBytes, exists: true, device: true}
	defer os.Remove(tg.statePath())
	old := newSaver(tg, p.Volume, twin.Base{Low: p.LSN, High: p.LSN, Done: extent.BlockAddr{Object: 3}})
	if err := old.save(); err != nil { // what an interrupted restore left
		t.Fatal(err)
	}
	// a new restore without --resume, which ends while it makes zeros (here: the ioctl fails; or kill -9, power cut)
	save := newSaver(tg, p.Volume, twin.Base{Low: p.LSN, High: p.LSN})
	err := tg.open(false, save.save)
	t.Log("open:", err)
	again := &Target{Path: path, Size: restoreBytes, have: restoreBytes, exists: true, device: true}
	if b, what := again.base(&Options{Resume: true}, &p); b != nil {
		t.Errorf("--resume goes on from %s of before the zeros: %+v", what, b)
	}
}

// TestRestoreFrom: once a restore from a point that a device holds has begun, the device
// holds no point, whatever ends the restore.
func TestRestoreFrom(t *testing.T) {
	made := restoreLog(t)
	l, p, _ := restorePlan(t, made, made.Point.LSN)
	path := filepath.Join(t.TempDir(), "dev")
	if err := os.WriteFile(path, make([]byte, restoreBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	device := func() *Target {
		return &Target{Path: path, Size: restoreBytes, have: restoreBytes, exists: true, device: true}
	}
	tg := device()
	defer os.Remove(tg.statePath())
	if held, err := tg.Held(t.Context(), l, &p, fmt.Sprint(p.LSN)); err != nil || held.LSN != p.LSN {
		t.Fatal(held, err)
	}
	plan, err := l.Plan(t.Context(), p, twin.Complete(p.LSN), "")
	if err != nil {
		t.Fatal(err)
	}
	defer plan.Close()
	if err := tg.open(true, newSaver(tg, p.Volume, plan.Left()).save); err != nil {
		t.Fatal(err)
	}
	_ = tg.file.Close() // and the process is gone
	if _, err := device().Held(t.Context(), l, &p, fmt.Sprint(p.LSN)); !fail.Is(err, fail.Refused) {
		t.Errorf("the same --from after a restore that was cut: %v", err)
	}
	if b, _ := device().base(&Options{Resume: true}, &p); b == nil {
		t.Error("--resume does not go on")
	}
}

// TestHeldNewest: a device holds what the log says was written last, and no older point,
// whoever says so. Marks, and writes to other volumes, are no writes to this one.
func TestHeldNewest(t *testing.T) {
	made := restoreLog(t)
	made.Volume("w", restoreBytes)
	path := filepath.Join(t.TempDir(), "dev")
	tg := &Target{Path: path, Size: restoreBytes, have: restoreBytes, exists: true, device: true}
	old := made.Point.LSN
	for _, c := range []struct {
		what    string
		add     func()
		refused bool
	}{
		{"nothing", func() {}, false},
		{"a bookmark", func() { made.Bookmark("b") }, false},
		{"a write to another volume", func() { made.Frame(made.Write("w", 0, make([]byte, 4096))) }, false},
		{"zeros", func() { made.Frame(made.Zero("v", 0, 4096)) }, true},
	} {
		c.add()
		made.Segment()
		l, err := twin.Open(t.Context(), made.Store, nil)
		if err != nil {
			t.Fatal(err)
		}
		v, err := l.Volume("v")
		if err != nil {
			t.Fatal(err)
		}
		p, err := l.Resolve(t.Context(), v, "16", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tg.Held(t.Context(), l, &p, fmt.Sprint(old)); fail.Is(err, fail.Refused) != c.refused ||
			!c.refused && err != nil {
			t.Errorf("--from a point with %s behind it: %v", c.what, err)
		}
		if _, err := tg.Held(t.Context(), l, &p, fmt.Sprint(made.Point.LSN)); err != nil {
			t.Errorf("--from the newest point, %s: %v", c.what, err)
		}
	}
}

// TestRestoreTwo: while one restore is at a target, another is refused.
func TestRestoreTwo(t *testing.T) {
	l := restoreLog(t)
	out := filepath.Join(t.TempDir(), "v.img")
	_, p, pl := restorePlan(t, l, l.Point.LSN)
	a, err := Inspect(out, restoreBytes)
	if err != nil {
		t.Fatal(err)
	}
	save := newSaver(a, p.Volume, pl.Left())
	if err := a.open(false, save.save); err != nil {
		t.Fatal(err)
	}
	if err := run(t, l, out, "", Options{}); !fail.Is(err, fail.Refused) {
		t.Fatalf("a second restore: %v", err)
	}
	if _, err = pl.Restore(t.Context(), a, twin.Run{Done: save.reached}); err != nil {
		t.Fatal(err)
	}
	if err := a.finish(); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(out); !bytes.Equal(got, l.Images["v"]) {
		t.Error("wrong bytes")
	}
}

// TestRestoreFsync: a failed fsync, and then one that says nothing (as Linux does), and the place is noted as durable.
func TestRestoreFsync(t *testing.T) {
	l := restoreLog(t)
	_, p, _ := restorePlan(t, l, l.Point.LSN)
	out := filepath.Join(t.TempDir(), "v.img")
	tg, err := Inspect(out, restoreBytes)
	if err != nil {
		t.Fatal(err)
	}
	save := newSaver(tg, p.Volume, twin.Base{Low: p.LSN, High: p.LSN})
	if err := tg.open(false, save.save); err != nil {
		t.Fatal(err)
	}
	good := tg.file
	broken, _ := os.Open(os.DevNull)
	broken.Close()
	tg.file, save.every = broken, 0
	err = save.reached(twin.Base{Low: p.LSN, High: p.LSN, Done: extent.BlockAddr{Object: 5}})
	t.Log("fsync:", err)
	tg.file = good // the kernel reports a failed write-back once
	t.Log(tg.interrupted(err, save))
	if b, _ := tg.base(&Options{}, &p); b != nil && b.Done.Object == 5 {
		t.Errorf("what could not be synced is taken as written: %+v", b)
	}
}

// TestRestoreSymlink: what a link leads to is meant.
func TestRestoreSymlink(t *testing.T) {
	l := restoreLog(t)
	dir := t.TempDir()
	real, link := filepath.Join(dir, "big", "real.img"), filepath.Join(dir, "v.img")
	os.Mkdir(filepath.Dir(real), 0o700)
	if err := run(t, l, real, "16", Options{}); err != nil {
		t.Fatal(err)
	}
	os.Symlink(real, link)
	if err := run(t, l, link, "", Options{Overwrite: true, Restart: true}); err != nil {
		t.Fatal(err)
	}
	got, _ := os.ReadFile(real)
	st, _ := os.Lstat(link)
	if st.Mode()&os.ModeSymlink == 0 || !bytes.Equal(got, l.Images["v"]) {
		t.Errorf("the link is %v now; the file that it names has the new image: %v", st.Mode(),
			bytes.Equal(got, l.Images["v"]))
	}
}

// TestAnotherBranch: what a target has of a point that a fence has cut off since is not gone on from, be it
// an image that is there or half of one: the log has other frames at those LSNs now.
func TestAnotherBranch(t *testing.T) {
	for _, half := range []bool{false, true} {
		l := restoreLog(t)
		from := l.Here()
		l.Frame(l.Write("v", 0, bytes.Repeat([]byte{3}, 256<<10)))
		l.Segment()
		out := filepath.Join(t.TempDir(), "v.img")
		if half {
			_, p, pl := restorePlan(t, l, l.Point.LSN)
			tg, err := Inspect(out, restoreBytes)
			if err != nil {
				t.Fatal(err)
			}
			save := newSaver(tg, p.Volume, pl.Left())
			save.hashes = map[uint64]change.Hash{p.LSN: l.Point.Hash}
			if err := tg.open(false, save.save); err != nil {
				t.Fatal(err)
			}
			if _, err := pl.Restore(t.Context(), tg, twin.Run{Done: save.reached}); err != nil {
				t.Fatal(err)
			}
			if err := tg.interrupted(fail.New(fail.Retry, "read", "store", "it is away"), save); err == nil {
				t.Fatal("no error")
			}
		} else if err := run(t, l, out, "", Options{}); err != nil {
			t.Fatal(err)
		}
		l.GoBack(from)
		l.Frame(l.Write("v", 1<<20, bytes.Repeat([]byte{4}, 256<<10)))
		l.Frame(l.Write("v", 2<<20, bytes.Repeat([]byte{5}, 256<<10)))
		l.Segment()
		if err := run(t, l, out, "", Options{Overwrite: true}); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(out)
		if err != nil || !bytes.Equal(b, l.Images["v"]) {
			t.Errorf("half %v: the image is not what the volume is: %v", half, err)
		}
	}
}
