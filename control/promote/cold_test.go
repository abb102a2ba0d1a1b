package promote

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/node"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
)

const coldBytes = 4 << 20

// full runs the first site with a volume that is full of data, and loses it.
func (s *sites) full() (want []byte) {
	a := s.conf("host-a", "seoul")
	want = make([]byte, coldBytes)
	for i := range want {
		want[i] = byte(i/4096*7 + i%251)
	}
	backing := filepath.Join(s.dir, "a.img")
	if err := os.WriteFile(backing, want, 0o600); err != nil {
		s.t.Fatal(err)
	}
	d := s.start(a)
	s.call(a, api.VerbGroupPut, api.GroupPut{Name: "g", Create: true})
	s.call(a, api.VerbVolumeCreate, api.VolumeCreate{Name: "v", Group: "g", Backing: backing})
	s.write(a, 65536, 'B')
	copy(want[65536:], bytes.Repeat([]byte{'B'}, 8192))
	s.drained(a)
	if err := d.Close(); err != nil {
		s.t.Fatal(err)
	}
	return want
}

func (s *sites) bookmarks(c *config.Agent) (names []string) {
	s.t.Helper()
	var all []api.Bookmark
	if err := api.Dial(c.Socket).Call(s.t.Context(), api.VerbBookmarkList, api.List{}, &all); err != nil {
		s.t.Fatal(err)
	}
	for _, b := range all {
		names = append(names, b.Name)
	}
	return names
}

func (s *sites) hydrating(c *config.Agent) []api.Hydration {
	s.t.Helper()
	var st api.Status
	if err := api.Dial(c.Socket).Call(s.t.Context(), api.VerbStatus, struct{}{}, &st); err != nil {
		s.t.Fatal(err)
	}
	return st.Agent.Hydrating
}

// whole waits until the volume is complete and no bookmark keeps its point, stops the agent, and
// compares the image.
func (s *sites) whole(d *node.Daemon, c *config.Agent, image string, want []byte) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); len(s.hydrating(c)) > 0 || len(s.bookmarks(c)) > 0; {
		if time.Sleep(10 * time.Millisecond); time.Now().After(deadline) {
			s.t.Fatalf("not complete: %+v, bookmarks %v", s.hydrating(c), s.bookmarks(c))
		}
	}
	if err := d.Close(); err != nil {
		s.t.Fatal(err)
	}
	got, err := os.ReadFile(image)
	if err != nil || len(got) < len(want) || !bytes.Equal(got[:len(want)], want) {
		s.t.Errorf("%s differs: %v", image, err)
	}
}

// TestForceCold: the volume is served at once, of an image of which nothing is here; a bookmark
// keeps the point it is filled with, over restarts, and goes when the image is complete.
func TestForceCold(t *testing.T) {
	s := newSites(t)
	want := s.full()
	b := s.conf("host-b", "busan")
	b.HydrateRate = 1
	rep, err := Force(t.Context(), s.options(b))
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Volumes) != 1 || !rep.Volumes[0].Hydrates {
		t.Fatalf("%+v", rep.Volumes)
	}
	image := rep.Volumes[0].Backing
	d := s.start(b)
	s.wantAt(b, map[int64]byte{65536: 'B'})
	s.write(b, 131072+100, 'C')
	copy(want[131072+100:], bytes.Repeat([]byte{'C'}, 8192))
	for range 2 {
		h := s.hydrating(b)
		if len(h) != 1 || h[0].LeftBytes == 0 || h[0].LeftBytes >= coldBytes || h[0].Volume != "v" {
			t.Fatalf("%+v", h)
		}
		if names := s.bookmarks(b); len(names) != 1 || names[0] != "failover-2" {
			t.Fatalf("bookmarks %v", names)
		}
		s.drained(b)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		d = s.start(b)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	b.HydrateRate = 0
	d = s.start(b)
	s.whole(d, b, image, want)
}

// TestForceColdNames: a bookmark of that name that somebody has set stays.
func TestForceColdNames(t *testing.T) {
	s := newSites(t)
	a := s.conf("host-a", "seoul")
	d := s.start(a)
	s.call(a, api.VerbGroupPut, api.GroupPut{Name: "g", Create: true})
	s.call(a, api.VerbVolumeCreate, api.VolumeCreate{Name: "v", Group: "g", SizeBytes: 1 << 20})
	s.call(a, api.VerbBookmarkAdd, api.BookmarkAdd{Name: "failover-2", Group: "g"})
	s.write(a, 0, 'A')
	s.drained(a)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	b := s.conf("host-b", "busan")
	if _, err := Force(t.Context(), s.options(b)); err != nil {
		t.Fatal(err)
	}
	d = s.start(b)
	s.wantAt(b, map[int64]byte{0: 'A'})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		names := s.bookmarks(b)
		if len(names) == 1 && names[0] == "failover-2" {
			break
		}
		if len(names) != 2 || !strings.HasPrefix(names[1], "failover-2-") || time.Now().After(deadline) {
			t.Fatal(names)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestForceWhole: where it is asked for, or a file is in the way, the volume is whole before the
// agent starts, and needs no bookmark.
func TestForceWhole(t *testing.T) {
	for _, inTheWay := range []bool{false, true} {
		s := newSites(t)
		want := s.full()
		b := s.conf("host-b", "busan")
		o := s.options(b)
		image := filepath.Join(s.dir, "b.img")
		o.Backings = map[string]string{"v": image}
		if o.WaitForData = !inTheWay; inTheWay {
			if err := os.WriteFile(image, []byte("what was here"), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Force(t.Context(), o); !fail.Is(err, fail.Refused) {
				t.Errorf("over a file: %v", err)
			}
			o.Overwrite = true
		}
		rep, err := Force(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if rep.Volumes[0].Hydrates {
			t.Error("it is filled while it serves")
		}
		if got, err := os.ReadFile(image); err != nil || !bytes.Equal(got, want) {
			t.Error("the image differs before the agent starts: ", err)
		}
		d := s.start(b)
		if names := s.bookmarks(b); len(names) > 0 {
			t.Error("bookmarks ", names)
		}
		s.whole(d, b, image, want)
	}
}

// TestForceColdDevice: onto a block device that holds something else.
func TestForceColdDevice(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a loop device takes root")
	}
	s := newSites(t)
	want := s.full()
	file := filepath.Join(s.dir, "disk")
	if err := os.WriteFile(file, bytes.Repeat([]byte("other"), coldBytes/4), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("losetup", "--detach", dev).Run() })
	b := s.conf("host-b", "busan")
	o := s.options(b)
	o.Backings = map[string]string{"v": dev}
	if _, err := Force(t.Context(), o); !fail.Is(err, fail.Refused) {
		t.Errorf("over a device that is not empty: %v", err)
	}
	o.Overwrite = true
	b.HydrateRate = 1
	rep, err := Force(t.Context(), o)
	if err != nil || !rep.Volumes[0].Hydrates {
		t.Fatal(rep, err)
	}
	d := s.start(b)
	s.wantAt(b, map[int64]byte{65536: 'B'})
	s.write(b, 1<<20+100, 'C')
	copy(want[1<<20+100:], bytes.Repeat([]byte{'C'}, 8192))
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	b.HydrateRate = 0
	s.whole(s.start(b), b, dev, want)
}
