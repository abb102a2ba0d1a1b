package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/extent"
	"github.com/pollux-dr/pollux/replicator/logtest"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
)

const restoreBytes = 4 << 20

func restoreLog(t *testing.T) (*logtest.Log, string) {
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
	return l, url
}

func runRestore(t *testing.T, args ...string) error {
	c := newRestore()
	c.SilenceErrors, c.SilenceUsage = true, true
	c.SetArgs(args)
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&out)
	err := c.ExecuteContext(t.Context())
	t.Logf("restore %v: %v\n%s", args, err, out.String())
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
	l, url := restoreLog(t)
	out := filepath.Join(t.TempDir(), "v.img")
	in, p, pl := restorePlan(t, l, l.Point.LSN)
	tg, err := inspectTarget(out, restoreBytes)
	if err != nil {
		t.Fatal(err)
	}
	// writeTarget, with a disk that lies:
	save := newSaver(tg, p.Volume, pl.Left())
	if err := tg.open(false, save.save); err != nil {
		t.Fatal(err)
	}
	if _, err := pl.Restore(t.Context(), tg, twin.Run{Done: save.reached}); err != nil {
		t.Fatal(err)
	}
	if _, err := tg.file.WriteAt([]byte("the disk lies"), 1<<20); err != nil {
		t.Fatal(err)
	}
	c := newRestore()
	c.SetContext(t.Context())
	c.SetErr(&bytes.Buffer{})
	err = verifyTarget(c, &restoreFlags{}, in, p, tg)
	t.Log("verify:", err)
	err = tg.interrupted(err, save)
	t.Log("interrupted:", err)
	b, _ := os.ReadFile(tg.statePath())
	t.Logf("%s", b)
	if err := runRestore(t, "v", "--store", url, "-o", out, "--verify"); err != nil {
		t.Log("again with --verify: it fails for ever")
	}
	if err := runRestore(t, "v", "--store", url, "-o", out); err != nil {
		t.Fatal(err)
	}
	got, _ := os.ReadFile(out)
	if !bytes.Equal(got, l.Images["v"]) {
		t.Error("a restore that says it is good left wrong bytes")
	}
}

// a device's state of an earlier restore stays while the device is made zeros.
func TestRestoreDevice(t *testing.T) {
	l, _ := restoreLog(t)
	_, p, _ := restorePlan(t, l, l.Point.LSN)
	path := filepath.Join(t.TempDir(), "dev")
	if err := os.WriteFile(path, make([]byte, restoreBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	tg := &restoreTarget{path: path, size: restoreBytes, have: restoreBytes, exists: true, device: true}
	defer os.Remove(tg.statePath())
	old := newSaver(tg, p.Volume, twin.Base{Low: p.LSN, High: p.LSN, Done: extent.Place{Position: 3}})
	if err := old.save(); err != nil { // what an interrupted restore left
		t.Fatal(err)
	}
	// a new restore without --resume, which ends while it makes zeros (here: the ioctl fails; or kill -9, power cut)
	save := newSaver(tg, p.Volume, twin.Base{Low: p.LSN, High: p.LSN})
	err := tg.open(false, save.save)
	t.Log("open:", err)
	again := &restoreTarget{path: path, size: restoreBytes, have: restoreBytes, exists: true, device: true}
	if b, what := again.base(&restoreFlags{resume: true}, &p); b != nil {
		t.Errorf("--resume goes on from %s of before the zeros: %+v", what, b)
	}
}

// TestRestoreFrom: once a restore from a point that a device holds has begun, the device
// holds no point, whatever ends the restore.
func TestRestoreFrom(t *testing.T) {
	made, _ := restoreLog(t)
	l, p, _ := restorePlan(t, made, made.Point.LSN)
	path := filepath.Join(t.TempDir(), "dev")
	if err := os.WriteFile(path, make([]byte, restoreBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	device := func() *restoreTarget {
		return &restoreTarget{path: path, size: restoreBytes, have: restoreBytes, exists: true, device: true}
	}
	tg := device()
	defer os.Remove(tg.statePath())
	if held, err := tg.from(t.Context(), l, &p, fmt.Sprint(p.LSN)); err != nil || held.LSN != p.LSN {
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
	if _, err := device().from(t.Context(), l, &p, fmt.Sprint(p.LSN)); !fail.Is(err, fail.Refused) {
		t.Errorf("the same --from after a restore that was cut: %v", err)
	}
	if b, _ := device().base(&restoreFlags{resume: true}, &p); b == nil {
		t.Error("--resume does not go on")
	}
}

// TestRestoreTwo: while one restore is at a target, another is refused.
func TestRestoreTwo(t *testing.T) {
	l, url := restoreLog(t)
	out := filepath.Join(t.TempDir(), "v.img")
	_, p, pl := restorePlan(t, l, l.Point.LSN)
	a, err := inspectTarget(out, restoreBytes)
	if err != nil {
		t.Fatal(err)
	}
	save := newSaver(a, p.Volume, pl.Left())
	if err := a.open(false, save.save); err != nil {
		t.Fatal(err)
	}
	if err := runRestore(t, "v", "--store", url, "-o", out); !fail.Is(err, fail.Refused) {
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

// TestRestoreCopyMount: a clone of a mount overwrites nothing.
func TestRestoreCopyMount(t *testing.T) {
	l, url := restoreLog(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	sock := filepath.Join(dir, "s")
	m := newMount()
	m.SetArgs([]string{"v", "--store", url, "--nbd", sock, "--json"})
	var o bytes.Buffer
	m.SetOut(&o)
	m.SetErr(&bytes.Buffer{})
	done := make(chan error, 1)
	go func() { done <- m.ExecuteContext(ctx) }()
	for range 100 {
		if _, err := os.Stat(sock); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	backing := filepath.Join(dir, "precious.img")
	_ = os.WriteFile(backing, []byte("precious"), 0o600)
	var f cloneFlags
	f.backing = backing
	c := newClone()
	c.SetContext(t.Context())
	c.SetErr(&bytes.Buffer{})
	err := f.copyMount(c, "nbd+unix:///v?socket="+sock, &cloneReport{})
	got, _ := os.ReadFile(backing)
	if err == nil && bytes.Equal(got, l.Images["v"]) {
		t.Error("copyMount overwrote an existing file without a word")
	}
	t.Log(err)
	cancel()
	t.Log(<-done)
}

// TestRestoreFsync: a failed fsync, and then one that says nothing (as Linux does), and the place is noted as durable.
func TestRestoreFsync(t *testing.T) {
	l, _ := restoreLog(t)
	_, p, _ := restorePlan(t, l, l.Point.LSN)
	out := filepath.Join(t.TempDir(), "v.img")
	tg, err := inspectTarget(out, restoreBytes)
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
	err = save.reached(twin.Base{Low: p.LSN, High: p.LSN, Done: extent.Place{Position: 5}})
	t.Log("fsync:", err)
	tg.file = good // the kernel reports a failed write-back once
	t.Log(tg.interrupted(err, save))
	if b, _ := tg.base(&restoreFlags{}, &p); b != nil && b.Done.Position == 5 {
		t.Errorf("what could not be synced is taken as written: %+v", b)
	}
}

// TestRestoreSymlink: what a link leads to is meant.
func TestRestoreSymlink(t *testing.T) {
	l, url := restoreLog(t)
	dir := t.TempDir()
	real, link := filepath.Join(dir, "big", "real.img"), filepath.Join(dir, "v.img")
	os.Mkdir(filepath.Dir(real), 0o700)
	if err := runRestore(t, "v", "--store", url, "-o", real, "--at", "16"); err != nil {
		t.Fatal(err)
	}
	os.Symlink(real, link)
	if err := runRestore(t, "v", "--store", url, "-o", link, "--overwrite", "--yes", "--restart"); err != nil {
		t.Fatal(err)
	}
	got, _ := os.ReadFile(real)
	st, _ := os.Lstat(link)
	t.Logf("link is now %v; the file it named has the new image: %v", st.Mode(), bytes.Equal(got, l.Images["v"]))
}
