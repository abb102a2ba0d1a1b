package agent

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
)

// kill -9, then a start with another `memory:`.
func TestMemoryChanged(t *testing.T) {
	o := regressOpts(t)
	o.Linger = time.Hour
	sc := StreamConf{ID: uuid.New(), Number: 1, Group: "g"}
	a, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	_ = a.AddStream(sc)
	if _, err := a.AddVolume(context.Background(), VolumeConf{Name: "v", Number: 2, Group: "g", Stream: sc.ID, SizeBytes: 1 << 20, Backing: filepath.Join(t.TempDir(), "v")}); err != nil {
		t.Fatal(err)
	}
	v, _ := a.Device("v")
	writeDevice(t, v, []byte("acknowledged"), 0)
	a.snapshotStreams()[0].close(errors.New("killed"))
	a.cancel()
	a.wg.Wait()
	a.closeFiles()
	o.MemoryBytes = 32 << 20
	a, err = Open(o)
	if err != nil {
		t.Logf("refused: %v", err)
		return
	}
	defer a.Close(context.Background())
	v, _ = a.Device("v")
	got := make([]byte, 12)
	_ = v.ReadAt(context.Background(), got, 0)
	if !bytes.Equal(got, []byte("acknowledged")) {
		t.Fatalf("acknowledged write lost by a process death: %q", got)
	}
}
