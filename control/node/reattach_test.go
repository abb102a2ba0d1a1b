package node

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/agent/backing"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
)

func startTest(t *testing.T, conf *config.Agent, s testHooks) *Daemon {
	t.Helper()
	if s.fs == nil {
		s.fs = vfs.Default
	}
	d, err := start(context.Background(), conf, "t", slog.New(slog.DiscardHandler), s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// cutRemoval creates a volume, does the first half of `volume rm`, and stops.
func cutRemoval(t *testing.T, conf *config.Agent, img string) {
	t.Helper()
	ctx := context.Background()
	d := startTest(t, conf, testHooks{})
	svc := d.service()
	if _, err := svc.GroupPut(ctx, api.GroupPut{Name: "g", Create: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := svc.VolumeCreate(ctx, api.VolumeCreate{Name: "v", Group: "g", Backing: img}); err != nil {
		t.Fatal(err)
	}
	if err := d.agent.RemoveVolume(ctx, "v"); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

func awaitDevice(t *testing.T, d *Daemon, name string) {
	t.Helper()
	for deadline := time.Now().Add(crashTimeout); ; time.Sleep(time.Millisecond) {
		_, err := d.agent.Device(name)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the volume is not served: %v", err)
		}
	}
}

// TestReattachIsServed: a volume rm is cut half way, and so is the initial sync
// with which the next start attaches the volume again.
func TestReattachIsServed(t *testing.T) {
	conf, dir := regressConf(t)
	img := filepath.Join(dir, "v.img")
	if err := os.WriteFile(img, bytes.Repeat([]byte{'o'}, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	cutRemoval(t, conf, img)
	held := make(chan struct{})
	d := startTest(t, conf, testHooks{openBacking: func(path string, size int64) (backing.Backing, error) {
		b, err := backing.Open(path, size)
		return heldBacking{b, held}, err
	}})
	vols, err := d.service().VolumeList(context.Background(), api.List{})
	if err != nil || len(vols) != 1 || vols[0].Ready {
		t.Errorf("before the sync: %+v, %v; it must not be ready", vols, err)
	}
	d.cancel() // the sync's context: it ends after the read that is held
	close(held)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		d = startTest(t, conf, testHooks{})
		awaitDevice(t, d, "v")
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReattachLogsZeros: between the cut volume rm and the next start, half of the
// image is blanked. The log holds the old bytes, so zeros must be logged.
func TestReattachLogsZeros(t *testing.T) {
	conf, dir := regressConf(t)
	ctx := context.Background()
	img := filepath.Join(dir, "v.img")
	const size = 1 << 20
	if err := os.WriteFile(img, bytes.Repeat([]byte{'o'}, size), 0o600); err != nil {
		t.Fatal(err)
	}
	cutRemoval(t, conf, img)
	content := append(make([]byte, size/2), bytes.Repeat([]byte{'n'}, size/4)...)
	if err := os.WriteFile(img, content, 0o600); err != nil { // and the last quarter is a hole
		t.Fatal(err)
	}
	if err := os.Truncate(img, size); err != nil {
		t.Fatal(err)
	}
	content = append(content, make([]byte, size/4)...)
	d := startTest(t, conf, testHooks{})
	defer d.Close()
	awaitDevice(t, d, "v")
	st := d.agent.Status().Streams[0]
	if _, durable, err := d.agent.WaitRemote(ctx, st.Conf.ID, st.LastLSN-1); err != nil || durable < st.LastLSN {
		t.Fatalf("LSN %d of %d is durable: %v", durable, st.LastLSN, err)
	}
	image, err := restoreTest(t, dir, "", size)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(image, content) {
		t.Errorf("the twin differs from the primary: %d old bytes in it", bytes.Count(image, []byte{'o'}))
	}
}

// TestCreateInSuspendedGroup is refused before the name is used up.
func TestCreateInSuspendedGroup(t *testing.T) {
	conf, dir := regressConf(t)
	ctx := context.Background()
	d := startTest(t, conf, testHooks{})
	img := filepath.Join(dir, "v.img")
	if _, err := d.service().GroupPut(ctx, api.GroupPut{Name: "g", Create: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.service().VolumeCreate(ctx,
		api.VolumeCreate{Name: "v", Group: "g", Backing: img, SizeBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(img, img+".away"); err != nil {
		t.Fatal(err)
	}
	d = startTest(t, conf, testHooks{})
	defer d.Close()
	for range 2 {
		if _, err := d.service().VolumeCreate(ctx,
			api.VolumeCreate{Name: "x", Group: "g", SizeBytes: 1 << 20}); !fail.Is(err, fail.NotFound) {
			t.Errorf("created in a suspended group: %v", err)
		}
	}
	if vols, err := d.service().VolumeList(ctx, api.List{}); err != nil || len(vols) != 1 {
		t.Errorf("the volumes are %+v, %v; want v alone", vols, err)
	}
}
