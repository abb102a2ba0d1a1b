package member

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/node"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/replicator/state"
)

func write(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// pair is a member that alone is a journal, and an agent of it.
type pair struct {
	*testing.T
	member      *Daemon
	ofM, ofA    *api.Client
	metricsOfM  string
	answerLimit time.Time
}

func startPair(t *testing.T) *pair {
	dir, address, metrics := t.TempDir(), freeAddress(t), freeAddress(t)
	quiet := slog.New(slog.DiscardHandler)
	mc, err := config.LoadJournal(write(t, fmt.Sprintf("name: m\nstate: %s/m\nlisten: %s\nmetrics: {listen: %s}\n"+
		"targets: [{name: remote, url: \"file://%s/remote\"}]\n", dir, address, metrics, dir)))
	if err != nil {
		t.Fatal(err)
	}
	m, err := Start(t.Context(), mc, "t", quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	p := &pair{T: t, member: m, ofM: api.Dial(mc.Socket), metricsOfM: "http://" + metrics + "/metrics",
		answerLimit: time.Now().Add(30 * time.Second)}
	p.call(p.ofM, api.VerbJournalInit, api.JournalInit{}, &api.JournalMembers{})
	run, err := os.MkdirTemp("/dev/shm", "pollux-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	ac, err := config.ParseAgent("a.yaml", fmt.Appendf(nil, "name: a\nstate: %s/a\nruntime: %s\nsocket: %s/c.sock\n"+
		"nbd: {unix: %s/n.sock}\nmemory: 16MiB\njournal: {addresses: [%q]}\n", dir, run, run, run, address))
	if err != nil {
		t.Fatal(err)
	}
	a, err := node.Start(t.Context(), ac, "t", quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	p.ofA = api.Dial(ac.Socket)
	return p
}

func (p *pair) call(c *api.Client, verb string, req, resp any) {
	p.Helper()
	if err := c.Call(p.Context(), verb, req, resp); err != nil {
		p.Fatalf("%s: %v", verb, err)
	}
}

// status asks until done says that the answer is as it must become.
func (p *pair) status(c *api.Client, done func(*api.GroupStatus) bool) *api.GroupStatus {
	p.Helper()
	for {
		var st api.Status
		p.call(c, api.VerbStatus, struct{}{}, &st)
		if len(st.Groups) == 1 && done(&st.Groups[0]) {
			return &st.Groups[0]
		}
		if time.Now().After(p.answerLimit) {
			p.Fatalf("status stays %+v", st)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestMemberSaysWhatAnAgentSays of a group, as far as it can know it, and its metrics say
// the same.
func TestMemberSaysWhatAnAgentSays(t *testing.T) {
	p := startPair(t)
	degrade, retention, others := "degrade", "every_write=2d", []string{"b"}
	p.call(p.ofA, api.VerbGroupPut, api.GroupPut{Name: "g", Create: true, OnAckLoss: &degrade, Retention: &retention,
		Agents: &others}, &api.Group{})
	p.call(p.ofA, api.VerbVolumeCreate, api.VolumeCreate{Name: "v", Group: "g", SizeBytes: 1 << 20}, &api.Volume{})
	p.call(p.ofA, api.VerbBookmarkAdd, api.BookmarkAdd{Name: "b", Group: "g"}, &api.Bookmark{}) // LSN 1
	var ofA, ofM []api.Group
	p.call(p.ofA, api.VerbGroupList, api.List{}, &ofA)
	p.call(p.ofM, api.VerbGroupList, api.List{Group: "g"}, &ofM)
	if diff := cmp.Diff(ofA, ofM); diff != "" || len(ofM) != 1 || ofM[0].Owner != "a" || ofM[0].Retention != retention {
		t.Errorf("group ls: %s", diff)
	}
	durable := func(g *api.GroupStatus) bool { return g.LastLSN > 0 && g.DurableLSN == g.LastLSN }
	a := p.status(p.ofA, durable)
	m := p.status(p.ofM, func(g *api.GroupStatus) bool { return durable(g) && g.LastLSN == a.LastLSN })
	if diff := cmp.Diff(a.Streams, m.Streams); diff != "" || m.State != a.State || m.State != api.Replicating {
		t.Errorf("%s, %s: %s", a.State, m.State, diff)
	}
	// Another agent's stream: its LSNs are no part of the group's.
	b := state.Stream{ID: uuid.New(), Group: "g", Agent: "b"}
	if _, err := p.member.host.Propose(state.KindStreamCreate, b); err != nil {
		t.Fatal(err)
	}
	two := func(g *api.GroupStatus) bool { return len(g.Streams) == 2 }
	if m = p.status(p.ofM, two); m.HasLSN() || m.Streams[0].LastLSN == nil || *m.Streams[0].LastLSN != a.LastLSN {
		t.Errorf("of the member: %+v", m)
	}
	if a = p.status(p.ofA, two); !durable(a) || a.Streams[1].Agent != "b" || a.Streams[1].LastLSN != nil {
		t.Errorf("of the agent: %+v", a)
	}
	p.checkMetrics()
}

func (p *pair) checkMetrics() {
	resp, err := http.Get(p.metricsOfM)
	if err != nil {
		p.Fatal(err)
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		p.Fatal(err)
	}
	for _, want := range []string{`pollux_journal_leader 1`, `pollux_journal_voters 1`,
		`pollux_target_error{target="remote"} 0`} {
		if !strings.Contains(string(page), "\n"+want+"\n") {
			p.Errorf("the metrics lack %s", want)
		}
	}
}
