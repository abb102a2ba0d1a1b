package systemtest

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestVerifyLive compares a volume with its twin while it is written to: no difference
// is reported that is none, and one that is is found.
func TestVerifyLive(t *testing.T) {
	s := newSite(t, siteConf{})
	s.mustStart()
	const size = 16 << 20
	s.volume("g", "v", "16MiB")
	conn, img := s.dial("v"), make([]byte, size)
	noise(t, conn, img, rand.NewChaCha8([32]byte{4}), 3000)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		busy, r := s.dial("v"), rand.New(rand.NewPCG(1, 1))
		for b := make([]byte, 4096); ctx.Err() == nil; time.Sleep(2 * time.Millisecond) {
			b[0]++
			if err := busy.WriteAt(t.Context(), b, r.Int64N(size/4096)*4096, 0); err != nil {
				t.Error(err)
				return
			}
		}
	})
	args := append([]string{"verify", "v", "--live", s.uri("v"), "--socket", s.socket()}, s.storeArgs()...)
	for range 3 {
		if v := s.verb(args...); v["compared_bytes"].(float64) < size || len(v["differs"].([]any)) != 0 {
			t.Errorf("%v", v)
		}
	}
	cancel()
	wg.Wait()
	s.drained("g", time.Minute)
	// Behind the agent's back.
	f, err := os.OpenFile(filepath.Join(s.conf.state, "volumes", "v.img"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("not written by anyone"), 5<<20)
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	until(t, 30*time.Second, "the change is read back", func() error { // once the overlay has let go of it
		o := s.pollux(args...)
		if o.code != fail.ExitCode(fail.New(fail.Damaged, "", "", "")) ||
			!strings.Contains(o.stdout, "differs: 4096 bytes at 5242880") {
			return errors.New(o.stdout + o.stderr)
		}
		return nil
	})
}

// TestTwinUpkeep runs gc, cost and verify on a real log: catalogs make reading short,
// points stay what they were, and damage is named with what it touches.
func TestTwinUpkeep(t *testing.T) {
	s := newSite(t, siteConf{})
	s.mustStart()
	s.volume("g", "v", "16MiB")
	s.verb("volume", "create", "w", "--group", "g", "--size", "1MiB")
	conn, img, r := s.dial("v"), make([]byte, 16<<20), rand.NewChaCha8([32]byte{5})
	points := map[string][]byte{}
	for i, name := range []string{"one", "two", "three"} {
		noise(t, conn, img, r, 1500)
		s.mark("g", name)
		points[name] = append([]byte{}, img...)
		if i < 2 {
			if v := s.verb(append([]string{"gc"}, s.storeArgs()...)...); v["catalog"].(float64) < float64(i) ||
				v["position"].(float64) < 10 {
				t.Errorf("%v", v)
			}
		}
	}
	if v := s.verb("group", "set", "g", "--retention", "every_write=24h,hourly=7d,daily=90d",
		"--yes"); v["retention"] != "every_write=1d,hourly=7d,daily=90d" {
		t.Errorf("%v", v)
	}
	for name, want := range points {
		got, _ := s.restore("v", name)
		sameBytes(t, "at "+name, got, want)
	}
	v := s.verb(append([]string{"points", "g"}, s.storeArgs()...)...)
	if len(v["volumes"].([]any)) != 2 {
		t.Errorf("%v", v)
	}
	if o := s.pollux(append([]string{"gc", "--dry-run"}, s.storeArgs()...)...); o.code != 0 ||
		!strings.Contains(o.stdout, "would be deleted now: 0 objects") {
		t.Errorf("%s%s", o.stdout, o.stderr)
	}
	c := s.verb(append([]string{"cost", "--price-gb-month", "0.023", "--price-1000-puts", "0.005"},
		s.storeArgs()...)...)
	sum := c["live_bytes"].(float64) + c["history_bytes"].(float64) + c["map_bytes"].(float64) +
		c["garbage_bytes"].(float64)
	if sum != c["bytes"].(float64) || c["live_bytes"].(float64) < 8<<20 || c["map_bytes"].(float64) == 0 ||
		c["cost_per_month"].(float64) <= 0 {
		t.Errorf("%v", c)
	}
	if o := s.pollux(append([]string{"cost", "--price-gb-month", "1000", "--budget", "0.001"},
		s.storeArgs()...)...); o.code != fail.ExitCode(fail.New(fail.Full, "", "", "")) ||
		!strings.Contains(o.stderr, "budget") {
		t.Errorf("%s%s", o.stdout, o.stderr)
	}
	if v := s.verb(append([]string{"verify"}, s.storeArgs()...)...); len(v["damaged"].([]any)) != 0 ||
		v["twin"].(map[string]any)["catalogs"].(float64) < 2 {
		t.Errorf("%v", v)
	}
	v = s.verb(append([]string{"verify", "v", "--at", "two"}, s.storeArgs()...)...)
	if v["data_bytes"].(float64) < 8<<20 {
		t.Errorf("%v", v)
	}
	s.agent.Kill()
	objects := filesBelow(t, filepath.Join(s.storeDir(), "log"), "*")
	largest := objects[0]
	for _, path := range objects {
		a, _ := os.Stat(path)
		b, _ := os.Stat(largest)
		if a.Size() > b.Size() {
			largest = path
		}
	}
	st, _ := os.Stat(largest)
	undo := flip(t, largest, st.Size()/2, rand.New(rand.NewPCG(1, 2)))
	o := s.pollux(append([]string{"verify"}, s.storeArgs()...)...)
	if o.code != fail.ExitCode(fail.New(fail.Damaged, "", "", "")) ||
		!strings.Contains(o.stdout, filepath.Base(largest)) || !strings.Contains(o.stdout, "volume v of group g") ||
		strings.Contains(o.stdout, "volume w of") {
		t.Errorf("%s%s", o.stdout, o.stderr)
	}
	undo()
	for _, path := range filesBelow(t, filepath.Join(s.storeDir(), "map"), "*") {
		if err := os.Rename(path, path+".gone"); err != nil {
			t.Fatal(err)
		}
		defer os.Rename(path+".gone", path)
	}
	if o := s.pollux(append([]string{"verify"}, s.storeArgs()...)...); o.code !=
		fail.ExitCode(fail.New(fail.Damaged, "", "", "")) || !strings.Contains(o.stdout, "map/") {
		t.Errorf("%s%s", o.stdout, o.stderr)
	}
}
