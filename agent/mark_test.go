package agent

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/provenance"
)

// marked is an agent with volume v on dir/v, that has written "flushed" at 0 and
// is closed.
func marked(t *testing.T, ctx context.Context) (o Options, stream uuid.UUID, img string) {
	t.Helper()
	o = regressOpts(t)
	img = filepath.Join(xattrDir(t), "v")
	a := mustOpen(t, o)
	stream = uuid.New()
	if err := a.AddStream(StreamConf{ID: stream, Number: 1, Group: "g"}); err != nil {
		t.Fatal(err)
	}
	vc := VolumeConf{Name: "v", Number: 3, Group: "g", Stream: stream, SizeBytes: 1 << 20, Backing: img}
	if _, err := a.AddVolume(ctx, vc); err != nil {
		t.Fatal(err)
	}
	if provenance.BackingOf(img) == "" {
		t.Fatal("the backing bears no mark")
	}
	v, err := a.Device("v")
	if err != nil {
		t.Fatal(err)
	}
	writeDevice(t, v, []byte("flushed"), 0)
	if err := a.Close(ctx); err != nil {
		t.Fatal(err)
	}
	return o, stream, img
}

// xattrDir is a temporary directory on a filesystem with extended attributes.
func xattrDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Setxattr(dir, "user.test", []byte("x"), 0); err == nil {
		return dir
	}
	dir, err := os.MkdirTemp("/dev/shm", "pollux-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func mustOpen(t *testing.T, o Options) *Agent {
	t.Helper()
	a, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// lost is marked's agent, started again without its backing.
func lost(t *testing.T, ctx context.Context) (a *Agent, o Options, stream uuid.UUID, img string) {
	t.Helper()
	o, stream, img = marked(t, ctx)
	if err := os.Remove(img); err != nil {
		t.Fatal(err)
	}
	return mustOpen(t, o), o, stream, img
}

// replaced asserts that the agent takes the backing for another one.
func replaced(t *testing.T, o Options, stream uuid.UUID, how string) {
	t.Helper()
	a := mustOpen(t, o)
	defer leave(a)
	err := a.Suspended(stream)
	if !fail.Is(err, fail.Refused) || !strings.Contains(err.Error(), "another file") || fail.HintOf(err) == "" {
		t.Errorf("%s: %v", how, err)
	}
	if _, err := a.Device("v"); err == nil {
		t.Errorf("%s: the volume is served", how)
	}
}

// TestReplacedBacking puts another file in the backing's place, as a restore over
// it does: nothing is served or applied as if it were the right one.
func TestReplacedBacking(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	o, stream, img := marked(t, ctx)
	aside := img + ".aside"
	if err := os.Rename(img, aside); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(img, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	replaced(t, o, stream, "a new file")
	if out, err := exec.Command("cp", "-a", aside, img+".copy").CombinedOutput(); err != nil {
		t.Fatalf("cp: %s", out)
	}
	if err := os.Rename(img+".copy", img); err != nil {
		t.Fatal(err)
	}
	if provenance.BackingOf(img) == "" {
		t.Fatal("cp -a did not copy the mark")
	}
	replaced(t, o, stream, "a copy with the mark")
	if err := os.Rename(aside, img); err != nil {
		t.Fatal(err)
	}
	a := mustOpen(t, o)
	defer func() { _ = a.Close(ctx) }()
	if got := readDevice(t, a, "v", 0, 7); string(got) != "flushed" {
		t.Errorf("after the right one came back: %q", got)
	}
	if err := a.AcceptBacking("v", false); !fail.Is(err, fail.Refused) {
		t.Errorf("accepting a backing that is in place: %v", err)
	}
	if err := a.RemoveVolume(ctx, "v"); err != nil {
		t.Fatal(err)
	}
	if m := provenance.BackingOf(img); m != "" {
		t.Errorf("a removed volume's backing still bears %q", m)
	}
}

// TestAcceptBacking: the backing is lost, and an image that lacks what only the
// WAL and the checkpoint know of is accepted in its place.
func TestAcceptBacking(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	a, o, stream, img := lost(t, ctx)
	if err := a.AcceptBacking("v", false); !fail.Is(err, fail.NotFound) {
		t.Errorf("accepting nothing: %v", err)
	}
	image := make([]byte, 1<<20)
	copy(image[4096:], "restored")
	if err := os.WriteFile(img, image, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.AcceptBacking("v", true); err != nil || provenance.BackingOf(img) != "" {
		t.Errorf("dry run: %v", err)
	}
	if err := a.AcceptBacking("v", false); err != nil {
		t.Fatal(err)
	}
	leave(a)
	for range 2 { // once with the WAL applied to it, once as usual
		a = mustOpen(t, o)
		if err := a.Suspended(stream); err != nil {
			t.Fatal(err)
		}
		if got := readDevice(t, a, "v", 0, 7); string(got) != "flushed" {
			t.Errorf("what the checkpoint covered: %q", got)
		}
		if got := readDevice(t, a, "v", 4096, 8); string(got) != "restored" {
			t.Errorf("what the image held: %q", got)
		}
		if a.volumes["v"].conf.Accepted {
			t.Error("still to be applied")
		}
		leave(a)
	}
}

// TestAcceptChecksThePoint: what a restore noted beside the image is held against
// the volume and the WAL.
func TestAcceptChecksThePoint(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	a, _, stream, img := lost(t, ctx)
	defer leave(a)
	a.trim() // of a suspended stream it frees nothing
	accept := func(r provenance.Restored) error {
		f, err := os.Create(img)
		if err == nil {
			err = f.Truncate(1 << 20)
		}
		if err == nil {
			err = provenance.SetRestored(f, r)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		return a.AcceptBacking("v", true)
	}
	s := a.streams[stream]
	right := provenance.Restored{Stream: stream.String(), Volume: 3, LSN: 0}
	for _, wrong := range []provenance.Restored{
		{Stream: uuid.NewString(), Volume: 3},
		{Stream: stream.String(), Volume: 4},
	} {
		if err := accept(wrong); !fail.Is(err, fail.Refused) || !strings.Contains(err.Error(), "another volume") {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
	if err := accept(right); err != nil { // the WAL holds LSN 1
		t.Errorf("%+v: %v", right, err)
	}
	s.wal.refs = nil // as if the WAL began behind the checkpoint, at LSN 2
	if err := accept(right); !fail.Is(err, fail.Refused) || !strings.Contains(err.Error(), "WAL begins at 2") {
		t.Errorf("%+v with a later WAL: %v", right, err)
	}
	right.LSN = 1
	if err := accept(right); err != nil {
		t.Errorf("%+v: %v", right, err)
	}
	if err := a.AcceptBacking("v", false); err != nil {
		t.Fatal(err)
	}
	if _, ok := provenance.RestoredAt(img); ok {
		t.Error("an accepted backing still says what it was restored to")
	}
}

// TestCutBacking cuts the backing under a running agent: it is said, and what is
// missing does not read as a hole.
func TestCutBacking(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	o, stream, img := marked(t, ctx)
	a := mustOpen(t, o)
	defer leave(a)
	if err := os.Truncate(img, 4096); err != nil {
		t.Fatal(err)
	}
	v, err := a.Device("v")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Extents(ctx, 0, 1<<20); !fail.Is(err, fail.Damaged) {
		t.Errorf("extents: %v", err)
	}
	if err := v.ReadAt(ctx, make([]byte, 8192), 0); err == nil {
		t.Error("what was cut off is read")
	}
	if err := a.streams[stream].checkpoint(); !fail.Is(err, fail.Damaged) || fail.HintOf(err) == "" {
		t.Errorf("checkpoint: %v", err)
	}
	if s := a.Status().Streams[0]; s.BackErr == nil {
		t.Error("the status does not say it")
	}
}

// TestBackingOfAnother: one file is one agent's, while it runs, and the mark is
// the last one's who took it.
func TestBackingOfAnother(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	o, stream, img := marked(t, ctx)
	other := mustOpen(t, regressOpts(t))
	defer func() { _ = other.Close(ctx) }()
	sc := StreamConf{ID: uuid.New(), Number: 1, Group: "h"}
	if err := other.AddStream(sc); err != nil {
		t.Fatal(err)
	}
	vc := VolumeConf{Name: "w", Number: 2, Group: "h", Stream: sc.ID, SizeBytes: 1 << 20, Backing: img}
	a := mustOpen(t, o)
	if _, err := other.AddVolume(ctx, vc); !fail.Is(err, fail.Refused) || fail.HintOf(err) == "" {
		t.Errorf("a backing in use: %v", err)
	}
	if err := a.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := other.AddVolume(ctx, vc); err != nil {
		t.Fatal(err)
	}
	if err := other.RemoveVolume(ctx, "w"); err != nil {
		t.Fatal(err)
	}
	replaced(t, o, stream, "another agent had it")
}

// TestReattachMakesNoFile: a volume that the journal knows has a backing; where
// that is missing, an empty file would be served in its place.
func TestReattachMakesNoFile(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	a := mustOpen(t, regressOpts(t))
	defer func() { _ = a.Close(ctx) }()
	sc := StreamConf{ID: uuid.New(), Number: 1, Group: "g"}
	if err := a.AddStream(sc); err != nil {
		t.Fatal(err)
	}
	img := filepath.Join(t.TempDir(), "v")
	err := a.AttachVolume(ctx, VolumeConf{Name: "v", Number: 2, Group: "g", Stream: sc.ID,
		SizeBytes: 1 << 20, Backing: img, Resync: true})
	if _, serr := os.Stat(img); !fail.Is(err, fail.NotFound) || serr == nil {
		t.Errorf("attached: %v; the file: %v", err, serr)
	}
}
