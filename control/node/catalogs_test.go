package node

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/catalogs"
	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/change"
)

// TestCatalogs: an agent whose log nobody collects makes catalogs of it, says so in its
// status, and points are restored from them, also after a restart.
func TestCatalogs(t *testing.T) {
	conf, dir := regressConf(t)
	ctx, cancel := context.WithTimeout(context.Background(), crashTimeout)
	defer cancel()
	s := testHooks{catalogs: func(o *catalogs.Options) {
		o.Poll, o.Every, o.Yield = time.Millisecond, 4, time.Nanosecond
	}}
	d := startTest(t, conf, s)
	svc := d.service()
	if _, err := svc.GroupPut(ctx, api.GroupPut{Name: "g", Create: true}); err != nil {
		t.Fatal(err)
	}
	const size = 256 << 10
	if _, err := svc.VolumeCreate(ctx, api.VolumeCreate{Name: "v", Group: "g", SizeBytes: size}); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, size)
	covered := uint64(0)
	for range 2 {
		awaitDevice(t, d, "v")
		dev, err := d.agent.Device("v")
		if err != nil {
			t.Fatal(err)
		}
		for i := byte(1); ; i++ {
			p := bytes.Repeat([]byte{i}, 4096)
			off := int64(i) % (size / 4096) * 4096
			copy(want[off:], p)
			if err := write(ctx, dev, p, off); err != nil {
				t.Fatal(err)
			}
			if err := dev.Flush(ctx); err != nil {
				t.Fatal(err)
			}
			if c := catalogOf(t, d); c != nil && c.Position > covered {
				covered = c.Position
				break
			}
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(catalogs.ScratchDir(conf.State)); !os.IsNotExist(err) {
			t.Errorf("the scratch directory: %v", err)
		}
		d = startTest(t, conf, s)
	}
	stream := d.agent.Status().Streams[0]
	lsn := stream.LastLSN
	if _, durable, err := d.agent.WaitRemote(ctx, stream.Conf.ID, lsn-1); err != nil || durable < lsn {
		t.Fatalf("LSN %d of %d is durable: %v", durable, lsn, err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := restoreTest(t, dir, fmt.Sprint(lsn), size)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("LSN %d by the catalog is not the volume: %v", lsn, err)
	}
}

func write(ctx context.Context, dev block.Device, p []byte, off int64) error {
	b, err := dev.Prepare(ctx, len(p))
	if err != nil {
		return err
	}
	for _, piece := range b.Pieces() {
		p = p[copy(piece, p):]
	}
	return dev.Write(ctx, b, off, false)
}

// catalogOf is what the status says of the target's newest catalog.
func catalogOf(t *testing.T, d *Daemon) *change.CatalogInfo {
	t.Helper()
	st, err := d.service().Status(t.Context(), struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	c := st.Targets[0].Catalog
	if c != nil && c.Error != "" {
		t.Fatal(c.Error)
	}
	return c
}
