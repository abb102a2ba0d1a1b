package promote

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/seat"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbdclient"
)

// awaitState waits until the group is in a state whose reason says something.
func (s *sites) awaitState(c *config.Agent, state, says string) api.GroupStatus {
	s.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var st api.Status
		err := api.Dial(c.Socket).Call(s.t.Context(), api.VerbStatus, struct{}{}, &st)
		if err == nil && st.Groups[0].State == state && strings.Contains(st.Groups[0].Reason, says) {
			return st.Groups[0]
		}
		if time.Now().After(end) {
			s.t.Fatalf("not %s: %+v, %v", state, st.Groups, err)
		}
	}
}

func (s *sites) refused(c *config.Agent) {
	s.t.Helper()
	if n, err := nbdclient.DialAddr(s.t.Context(), "unix", c.NBD.Unix, "v", nil); err == nil {
		n.Close()
		s.t.Error("a superseded seat serves a client")
	}
}

// TestSupersededAtStart: an old seat that comes back serves nobody, not for a moment, and says
// where the journal went; a later start knows that without the store.
func TestSupersededAtStart(t *testing.T) {
	s := newSites(t)
	a := s.primary()
	b := s.conf("host-b", "busan")
	if _, err := Force(t.Context(), s.options(b)); err != nil {
		t.Fatal(err)
	}
	db := s.start(b)
	s.write(b, 131072, 'C')
	s.drained(b)
	d := s.start(a)
	s.refused(a)
	s.awaitState(a, api.Superseded, "it went on at busan under epoch 2 from LSN")
	if err := api.Dial(a.Socket).Call(t.Context(), api.VerbGroupPut, api.GroupPut{Name: "h", Create: true},
		nil); !fail.Is(err, fail.Fenced) {
		t.Errorf("a verb there: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadDir(filepath.Join(s.store, "log"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.store, s.store+"-away"); err != nil {
		t.Fatal(err)
	}
	d = s.start(a)
	s.refused(a)
	s.awaitState(a, api.Superseded, "it went on at busan under epoch 2 from LSN")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadDir(filepath.Join(s.store+"-away", "log")); err != nil || len(after) != len(before) {
		t.Errorf("the old seat wrote to the log: %d objects, then %d; %v", len(before), len(after), err)
	}
}

// TestSupersededWhileServing: an isolated seat goes on serving; when it reaches the log again, its
// clients are refused, those that are there too, and it says what never left it.
func TestSupersededWhileServing(t *testing.T) {
	s := newSites(t)
	link := s.store + "-far"
	if err := os.Symlink(s.store, link); err != nil {
		t.Fatal(err)
	}
	real := s.store
	s.store = link
	a := s.conf("host-a", "seoul")
	s.store = real
	d := s.start(a)
	s.call(a, api.VerbGroupPut, api.GroupPut{Name: "g", Create: true})
	s.call(a, api.VerbVolumeCreate, api.VolumeCreate{Name: "v", Group: "g", SizeBytes: 1 << 20})
	s.write(a, 0, 'A')
	s.drained(a)
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	s.write(a, 65536, 'L') // acknowledged here, and nowhere else
	b := s.conf("host-b", "busan")
	if _, err := Force(t.Context(), s.options(b)); err != nil {
		t.Fatal(err)
	}
	db := s.start(b)
	defer db.Close()
	s.write(b, 131072, 'C')
	s.drained(b)
	n := s.dial(a) // still served: nothing has told this site
	defer n.Close()
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	g := s.awaitState(a, api.Superseded, "went on at busan")
	if g.Role != "superseded" || !strings.Contains(g.Reason, fmt.Sprintf("to %d of agent host-a", g.LastLSN)) {
		t.Errorf("status %+v", g)
	}
	if err := n.ReadAt(t.Context(), make([]byte, 4096), 0); err == nil {
		t.Error("a client that was there is served")
	}
	if err := n.WriteAt(t.Context(), bytes.Repeat([]byte{'Z'}, 4096), 0, 0); err == nil {
		t.Error("a client that was there can write")
	}
	s.refused(a)
	if err := d.Close(); err != nil { // what is written down is written by then
		t.Fatal(err)
	}
	over, err := seat.Load(vfs.Default, a.State)
	if err != nil || over == nil || over.Epoch != 2 || over.Site != "busan" || over.Branch == 0 {
		t.Errorf("written down: %+v, %v", over, err)
	}
	s.wantAt(b, map[int64]byte{0: 'A', 65536: 0, 131072: 'C'})
}

// TestDoneAndSuperseded: a site that had taken the journal over does not say that it has it once it
// has gone on elsewhere, whether its agent runs or not.
func TestDoneAndSuperseded(t *testing.T) {
	s := newSites(t)
	s.primary()
	b, c := s.options(s.conf("host-b", "busan")), s.options(s.conf("host-c", "daegu"))
	for _, o := range []Options{b, c} {
		if _, err := Force(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	if rep, err := Force(t.Context(), b); !fail.Is(err, fail.Fenced) || !strings.Contains(err.Error(), "epoch 3") {
		t.Errorf("once more: %+v, %v", rep, err)
	}
	d := s.start(b.Conf)
	defer d.Close()
	s.awaitState(b.Conf, api.Superseded, "under epoch 3")
	// It stops serving before that is written down.
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		rep, err := DoneAt(b.Conf)
		if fail.Is(err, fail.Fenced) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("beside its agent: %+v, %v", rep, err)
		}
	}
	if rep, err := Force(t.Context(), c); err != nil || !rep.Done {
		t.Errorf("the seat, once more: %+v, %v", rep, err)
	}
}
