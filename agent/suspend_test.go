package agent

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/fail"
)

// leave ends an agent as a kill would: what is in the arena stays there.
func leave(a *Agent) {
	for _, s := range a.snapshotStreams() {
		s.close(errors.New("killed"))
	}
	a.cancel()
	a.wg.Wait()
	a.closeFiles()
}

func readDevice(t *testing.T, a *Agent, name string, off int64, n int) []byte {
	t.Helper()
	dev, err := a.Device(name)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, n)
	if err := dev.ReadAt(context.Background(), p, off); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestMissingBacking takes one of two groups' backing away. The other group is
// served, and nothing of the first is lost: neither what only the WAL holds, nor
// what only the arena does.
func TestMissingBacking(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	o := regressOpts(t)
	o.Linger = time.Hour
	dir := t.TempDir()
	open := func() *Agent {
		t.Helper()
		a, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a := open()
	streams := map[string]StreamConf{
		"v": {ID: uuid.New(), Number: 1, Group: "gv"},
		"w": {ID: uuid.New(), Number: 2, Group: "gw"},
	}
	for i, name := range []string{"v", "w"} {
		if err := a.AddStream(streams[name]); err != nil {
			t.Fatal(err)
		}
		vc := VolumeConf{Name: name, Number: uint32(3 + i), Group: "g" + name,
			Stream: streams[name].ID, SizeBytes: 1 << 20, Backing: filepath.Join(dir, name)}
		if _, err := a.AddVolume(ctx, vc); err != nil {
			t.Fatal(err)
		}
	}
	v, err := a.Device("v")
	if err != nil {
		t.Fatal(err)
	}
	writeDevice(t, v, []byte("flushed"), 0)
	if err := v.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	writeDevice(t, v, []byte("acknowledged"), 8192)
	leave(a)

	img, aside := filepath.Join(dir, "v"), filepath.Join(dir, "aside")
	if err := os.Rename(img, aside); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		a = open()
		if _, err := a.Device("v"); !fail.Is(err, fail.NotFound) || fail.HintOf(err) == "" {
			t.Errorf("the volume without backing: %v, hint %q", err, fail.HintOf(err))
		}
		if _, err := a.Mark(ctx, streams["v"].ID, "b"); err == nil {
			t.Error("a bookmark in a suspended group")
		}
		x := VolumeConf{Name: "x", Number: 9, Stream: streams["v"].ID, SizeBytes: 4096,
			Backing: filepath.Join(dir, "x")}
		if _, err := a.AddVolume(ctx, x); err == nil {
			t.Error("a new volume in a suspended group")
		}
		if _, err := a.InitialSync(ctx, "v"); !fail.Is(err, fail.Refused) {
			t.Errorf("an initial sync in a suspended group: %v", err)
		}
		if c, err := a.Changed(ctx, "v", nil); err != nil || c.Bytes != 8192 || c.Last != 2 {
			t.Errorf("the change map of a suspended group: %+v, %v", c, err)
		}
		for _, s := range a.Status().Streams {
			if (s.Suspended != nil) != (s.Conf.Group == "gv") {
				t.Errorf("group %s is suspended by %v", s.Conf.Group, s.Suspended)
			}
		}
		w, err := a.Device("w")
		if err != nil {
			t.Fatal(err)
		}
		writeDevice(t, w, []byte{byte('0' + round)}, int64(round))
		if err := w.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			if err := a.Close(ctx); err != nil {
				t.Fatal(err)
			}
		} else {
			leave(a)
		}
	}
	if err := os.Rename(aside, img); err != nil {
		t.Fatal(err)
	}
	a = open()
	defer func() { _ = a.Close(ctx) }()
	for off, want := range map[int64]string{0: "flushed", 8192: "acknowledged"} {
		if got := readDevice(t, a, "v", off, len(want)); string(got) != want {
			t.Errorf("offset %d: %q, want %q", off, got, want)
		}
	}
	if got := readDevice(t, a, "w", 0, 2); !bytes.Equal(got, []byte("01")) {
		t.Errorf("the other group's volume: %q", got)
	}
}

// TestRemoveVolumeWithoutBacking is the way out when a backing is gone for good.
func TestRemoveVolumeWithoutBacking(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	o := regressOpts(t)
	dir := t.TempDir()
	a, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	sc := StreamConf{ID: uuid.New(), Number: 1, Group: "g"}
	if err := a.AddStream(sc); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"v", "w"} {
		vc := VolumeConf{Name: name, Number: uint32(2 + i), Group: "g", Stream: sc.ID, SizeBytes: 1 << 20,
			Backing: filepath.Join(dir, name)}
		if _, err := a.AddVolume(ctx, vc); err != nil {
			t.Fatal(err)
		}
	}
	w, err := a.Device("w")
	if err != nil {
		t.Fatal(err)
	}
	writeDevice(t, w, []byte("kept"), 0)
	leave(a)
	if err := os.Remove(filepath.Join(dir, "v")); err != nil {
		t.Fatal(err)
	}
	if a, err = Open(o); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Device("w"); err == nil {
		t.Error("a volume of a suspended group is served")
	}
	if err := a.RemoveVolume(ctx, "w"); !fail.Is(err, fail.Refused) || fail.HintOf(err) == "" {
		t.Errorf("removing the volume whose backing is there, but lacks what the WAL has: %v", err)
	}
	if err := a.RemoveVolume(ctx, "v"); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if a, err = Open(o); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close(ctx) }()
	if got := readDevice(t, a, "w", 0, 4); string(got) != "kept" {
		t.Errorf("after the removal: %q", got)
	}
}
