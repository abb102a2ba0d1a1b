package systemtest

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbdclient"
)

// TestChangedAndWait: what the remote store lacks is listed exactly, outlives the
// agent's death, and is gone when `group wait` returns.
func TestChangedAndWait(t *testing.T) {
	s := newSite(t, siteConf{})
	s.mustStart()
	s.volume("g", "v", "8MiB")
	put := func(c *nbdclient.Conn, off int64) {
		if err := c.WriteAt(t.Context(), bytes.Repeat([]byte{7}, 4096), off, 0); err != nil {
			t.Fatal(err)
		}
	}
	put(s.dial("v"), 1<<20)
	s.verb("group", "wait", "g")
	if got := s.verb("volume", "changed", "v"); got["bytes"].(float64) != 0 || got["extents"] == nil {
		t.Errorf("all is durable, but %v", got)
	}
	s.verb("group", "pause", "g")
	for _, off := range []int64{0, 4096, 4 << 20, 8<<20 - 4096} {
		put(s.dial("v"), off)
	}
	want := []any{}
	for _, e := range [][2]float64{{0, 8192}, {4 << 20, 4096}, {8<<20 - 4096, 4096}} {
		want = append(want, map[string]any{"offset": e[0], "length": e[1]})
	}
	check := func(when string, args ...string) {
		t.Helper()
		got := s.verb(append([]string{"volume", "changed", "v"}, args...)...)
		if diff := cmp.Diff(any(want), got["extents"]); diff != "" || got["bytes"].(float64) != 16384 {
			t.Errorf("%s: %v bytes, -want +got\n%s", when, got["bytes"], diff)
		}
	}
	check("paused")
	o := s.pollux("group", "wait", "g", "--timeout", "300ms")
	if o.code != fail.ExitCode(fail.New(fail.Retry, "", "", "")) || !strings.Contains(o.stderr, "hint") {
		t.Errorf("waiting for a paused group: code %d, %s", o.code, o.stderr)
	}
	s.agent.Kill()
	s.mustStart()
	check("after kill -9")
	s.verb("group", "resume", "g")
	s.verb("group", "wait", "g")
	if got := s.verb("volume", "changed", "v"); got["bytes"].(float64) != 0 {
		t.Errorf("after the wait: %v", got)
	}
	if g := s.group("g"); g.DurableLSN != g.LastLSN {
		t.Errorf("after the wait: %+v", g)
	}
}

// TestMissingBacking takes a backing away while the agent is down, as a device
// that does not come up with the host. The other group is served; status and exit
// code say what is wrong; with the backing back, nothing is lost.
func TestMissingBacking(t *testing.T) {
	s := newSite(t, siteConf{})
	s.mustStart()
	s.volume("g", "v", "8MiB")
	s.volume("h", "w", "8MiB")
	data := bytes.Repeat([]byte{9}, 4096)
	if err := s.dial("v").WriteAt(t.Context(), data, 0, 0); err != nil {
		t.Fatal(err)
	}
	s.agent.Kill()
	img := filepath.Join(s.conf.state, "volumes", "v.img")
	if err := os.Rename(img, img+".away"); err != nil {
		t.Fatal(err)
	}
	s.mustStart()
	g := s.group("g")
	if g.State != "Suspended" || !strings.Contains(g.Reason, img) || !strings.Contains(g.Reason, "restart the agent") {
		t.Errorf("the group without its backing: %s, %s", g.State, g.Reason)
	}
	if g = s.group("h"); g.State != "Replicating" {
		t.Errorf("the other group: %s, %s", g.State, g.Reason)
	}
	if o := s.pollux("status", "--check"); o.code == 0 {
		t.Errorf("status --check is content: %s", o.stdout)
	}
	if c, err := nbdclient.Dial(t.Context(), s.uri("v"), nil); err == nil {
		_ = c.Close()
		t.Error("the volume is served without its backing")
	}
	if err := s.dial("w").WriteAt(t.Context(), data, 4096, 0); err != nil {
		t.Fatal(err)
	}
	s.verb("group", "wait", "h")
	s.stop()
	if err := os.Rename(img+".away", img); err != nil {
		t.Fatal(err)
	}
	s.mustStart()
	got := make([]byte, 4096)
	if err := s.dial("v").ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("after the backing is back: %v, equal %v", err, bytes.Equal(got, data))
	}
	s.drained("g", time.Minute)
	image, _ := s.restore("v", "")
	if !bytes.Equal(image[:4096], data) {
		t.Error("the twin lacks the write")
	}
}
