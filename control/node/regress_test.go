package node

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/agent/backing"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// regressConf is the configuration of a daemon with a file store in dir.
func regressConf(t *testing.T) (conf *config.Agent, dir string) {
	t.Helper()
	dir = t.TempDir()
	run, err := os.MkdirTemp("/dev/shm", "pollux-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	conf, err = config.ParseAgent("a.yaml", []byte(fmt.Sprintf(`
name: a
state: %q
runtime: %q
socket: %q
memory: 16MiB
nbd: {unix: %q}
journal:
  targets: [{name: remote, url: "file://%s/remote", requests: {rate: 0}}]
`, dir+"/state", run, run+"/c.sock", run+"/n.sock", dir)))
	if err != nil {
		t.Fatal(err)
	}
	return conf, dir
}

// The agent finished the initial sync, but stopped before VolumeReady was
// proposed (or: after a restart the background sync of agent.Open won).
func TestFirstLSN(t *testing.T) {
	conf, dir := regressConf(t)
	ctx := context.Background()
	const size = 1 << 20
	img := filepath.Join(dir, "v.img")
	content := bytes.Repeat([]byte{'o'}, size)
	if err := os.WriteFile(img, content, 0o600); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	d, err := Start(ctx, conf, "t", log)
	if err != nil {
		t.Fatal(err)
	}
	svc := d.service()
	if _, err := svc.GroupPut(ctx, api.GroupPut{Name: "g", Create: true}); err != nil {
		t.Fatal(err)
	}
	// VolumeCreate, up to the crash after AddVolume
	st, err := d.streamOf("g")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.journal.Propose(state.KindVolumeCreate,
		state.Volume{Name: "v", Group: "g", Agent: "a", SizeBytes: size, Backing: img, Stream: st,
			Created: time.Now()}); err != nil {
		t.Fatal(err)
	}
	var v state.Volume
	d.journal.View(func(s *state.State) { v = *s.Volumes["v"] })
	lsn, err := d.agent.AddVolume(ctx, agent.VolumeConf{Name: v.Name, Number: v.Number, Group: "g", Stream: st,
		SizeBytes: size, Backing: img})
	if err != nil {
		t.Fatal(err)
	}
	t.Log("initial sync complete at LSN", lsn)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = Start(ctx, conf, "t", log); err != nil { // reconcile
		t.Fatal(err)
	}
	defer d.Close()
	for deadline := time.Now().Add(crashTimeout); !v.Ready; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the volume does not become ready")
		}
		d.journal.View(func(s *state.State) { v = *s.Volumes["v"] })
	}
	t.Logf("journal: ready %v, first LSN %d", v.Ready, v.FirstLSN)
	name := d.journal.Info().Targets[0].Name
	deadline := time.Now().Add(crashTimeout)
	for ; d.host.Target(name).Index < d.host.LastIndex(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the store does not get the last commands")
		}
	}
	image, err := restoreTest(t, dir, "1", size)
	if err != nil {
		t.Logf("refused, as it should: %v", err)
		return
	}
	if !bytes.Equal(image, content) {
		t.Fatalf("restored LSN 1 of %d: the image has %d bytes of the primary's %d", lsn,
			bytes.Count(image, []byte{'o'}), size)
	}
}

// restoreTest returns volume v's image at a point from the store below dir; an
// error is about the point.
func restoreTest(t *testing.T, dir, at string, size int) ([]byte, error) {
	t.Helper()
	ctx := context.Background()
	s, err := objstore.Open(ctx, "file://"+dir+"/remote", objstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := twin.Open(ctx, s, nil)
	if err != nil {
		t.Fatal(err)
	}
	vol, err := l.Volume("v")
	if err != nil {
		t.Fatal(err)
	}
	p, err := l.Resolve(ctx, vol, at, time.Now())
	if err != nil {
		return nil, err
	}
	image := memImage(make([]byte, size))
	if _, err := l.Restore(ctx, p, image); err != nil {
		t.Fatal(err)
	}
	return image, nil
}

// heldBacking does not answer reads until it is let go.
type heldBacking struct {
	backing.Backing
	held chan struct{}
}

func (h heldBacking) ReadAt(p []byte, off int64) error {
	<-h.held
	return h.Backing.ReadAt(p, off)
}

// TestVerbsDuringInitialSync: a long initial sync holds up no other verb, and
// goes on when its caller leaves.
func TestVerbsDuringInitialSync(t *testing.T) {
	conf, dir := regressConf(t)
	ctx, cancel := context.WithTimeout(context.Background(), crashTimeout)
	defer cancel()
	img := filepath.Join(dir, "v.img")
	if err := os.WriteFile(img, bytes.Repeat([]byte{'o'}, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	held := make(chan struct{})
	s := testHooks{fs: vfs.Default, openBacking: func(path string, size int64) (backing.Backing, error) {
		b, err := backing.Open(path, size)
		if path == img {
			b = heldBacking{b, held}
		}
		return b, err
	}}
	d, err := start(ctx, conf, "t", slog.New(slog.DiscardHandler), s)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	svc := d.service()
	if _, err := svc.GroupPut(ctx, api.GroupPut{Name: "g", Create: true}); err != nil {
		t.Fatal(err)
	}
	caller, leave := context.WithCancel(ctx)
	created := make(chan error, 1)
	go func() {
		_, err := svc.VolumeCreate(caller, api.VolumeCreate{Name: "v", Group: "g", Backing: img})
		created <- err
	}()
	for known := false; !known && ctx.Err() == nil; time.Sleep(time.Millisecond) {
		for _, v := range d.agent.Volumes() {
			known = known || v.Name == "v"
		}
	}
	if _, err := svc.VolumeCreate(ctx, api.VolumeCreate{Name: "w", Group: "g", SizeBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	st, err := svc.Status(ctx, struct{}{})
	for err == nil && st.Groups[0].InitialSync == nil && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
		st, err = svc.Status(ctx, struct{}{})
	}
	if err != nil || st.Groups[0].State != "Initializing" {
		t.Errorf("during the sync: %+v, %v", st.Groups, err)
	}
	if want := "initial sync: 0%, 0 B of 1.0 MiB, ETA ?"; st.Groups[0].Reason != want ||
		st.Groups[0].InitialSync == nil {
		t.Errorf("at its beginning: %q, not %q", st.Groups[0].Reason, want)
	}
	for i := (*api.InitialSync)(nil); i == nil || i.Percent < 25; { // of four steps one
		select {
		case held <- struct{}{}:
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			t.Fatal("no progress is told")
		}
		if st, err = svc.Status(ctx, struct{}{}); err != nil || st.Groups[0].InitialSync == nil {
			t.Fatalf("%+v, %v", st, err)
		}
		i = st.Groups[0].InitialSync
	}
	if i := st.Groups[0].InitialSync; i.Bytes != 1<<20 || i.CopiedBytes < 1<<18 || i.LeftSeconds == nil ||
		*i.LeftSeconds <= 0 {
		t.Errorf("a quarter in: %+v", i)
	}
	leave()
	if err := <-created; !fail.Is(err, fail.Retry) {
		t.Errorf("a caller that left got %v", err)
	}
	close(held)
	for {
		if _, err := d.agent.Device("v"); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatal("the sync did not go on without its caller")
		case <-time.After(time.Millisecond):
		}
	}
}

// TestOneDescription: an export is listed as it describes itself when it is opened.
func TestOneDescription(t *testing.T) {
	conf, _ := regressConf(t)
	ctx, cancel := context.WithTimeout(context.Background(), crashTimeout)
	defer cancel()
	d, err := start(ctx, conf, "t", slog.New(slog.DiscardHandler),
		testHooks{fs: vfs.Default, openBacking: backing.Open})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	svc := d.service()
	if _, err := svc.GroupPut(ctx, api.GroupPut{Name: "g", Create: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := svc.VolumeCreate(ctx, api.VolumeCreate{Name: "v", Group: "g", SizeBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	e := exports{d.agent, d}
	list := e.List(ctx)
	dev, err := e.Open(ctx, "v")
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].Description != dev.Info().Description || list[0].SizeBytes != dev.Info().SizeBytes {
		t.Errorf("listed as %+v, opened as %+v", list, dev.Info())
	}
}
