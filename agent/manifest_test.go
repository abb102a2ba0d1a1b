package agent

import (
	"context"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
)

// slowManifest is a filesystem on which a manifest takes as long as a test wants.
type slowManifest struct {
	vfs.FS
	gate atomic.Pointer[manifestGate] // nil: it takes no time
}

// manifestGate stops the next manifest until release is closed.
type manifestGate struct{ entered, release chan struct{} }

func (f *slowManifest) Rename(from, to string) error {
	if strings.HasSuffix(to, "agent.json") {
		if g := f.gate.Swap(nil); g != nil {
			close(g.entered)
			<-g.release
		}
	}
	return f.FS.Rename(from, to)
}

// TestSlowManifest: while the disk takes its time with the manifest, the agent answers
// and its volumes are served; another change waits for it, and is not lost.
func TestSlowManifest(t *testing.T) {
	ctx := context.Background()
	disk := &slowManifest{FS: vfs.Default}
	o := regressOpts(t)
	o.FS = disk
	sc := StreamConf{ID: uuid.New(), Number: 1, Group: "g"}
	dir := t.TempDir()
	volume := func(name string, number uint32) VolumeConf {
		return VolumeConf{Name: name, Number: number, Group: "g", Stream: sc.ID, SizeBytes: 1 << 20,
			Backing: filepath.Join(dir, name)}
	}
	a := ackAgent(t, o, sc, volume("v", 2))
	gate := &manifestGate{make(chan struct{}), make(chan struct{})}
	disk.gate.Store(gate)
	changed := make(chan error, 3)
	go func() { changed <- a.AttachVolume(ctx, volume("w", 3)) }()
	<-gate.entered
	paused := sc
	paused.Paused = true
	go func() { changed <- a.AddStream(paused) }()
	go func() { changed <- a.PinJournal("j") }()
	served := make(chan struct{})
	go func() {
		defer close(served)
		dev, err := a.Device("v")
		if err != nil {
			t.Error(err)
			return
		}
		writeDevice(t, dev, []byte("meanwhile"), 0)
		if err := dev.Flush(ctx); err != nil || len(a.Status().Streams) != 1 || len(a.Volumes()) != 1 {
			t.Errorf("%v; %+v", err, a.Volumes())
		}
	}()
	select {
	case <-served:
	case <-time.After(10 * time.Second):
		t.Error("all waits for the manifest")
	}
	close(gate.release)
	<-served
	for range cap(changed) {
		if err := <-changed; err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Close(ctx); err != nil {
		t.Fatal(err)
	}
	var m manifest
	if _, err := loadMeta(vfs.Default, a.manifestPath(), &m); err != nil {
		t.Fatal(err)
	}
	if len(m.Volumes) != 2 || !m.Streams[0].Paused || m.Journal != "j" {
		t.Errorf("a change was lost: %+v", m)
	}
}
