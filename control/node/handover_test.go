package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbdclient"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/claim"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/image"
)

// neighbour is the other site, as far as the log shows it.
type neighbour struct {
	t     *testing.T
	store objstore.Store
	known map[uuid.UUID]bool // hand-overs that it has seen
}

// await reads the log until a hand-over that it does not know is in a phase.
func (n *neighbour) await(ctx context.Context, phase string) (*state.HandOver, *twin.Log) {
	for ctx.Err() == nil {
		l, err := twin.Open(ctx, n.store, nil)
		if err == nil && l.State.HandOver != nil && l.State.HandOver.Phase == phase && !n.known[l.State.HandOver.ID] {
			return l.State.HandOver, l
		}
		time.Sleep(5 * time.Millisecond)
	}
	n.t.Errorf("the log never came to %s", phase)
	return nil, nil
}

func (n *neighbour) ready(ctx context.Context, refusal string) {
	r, _ := n.await(ctx, state.HandOverPrepare)
	if r == nil {
		return
	}
	err := objlog.WriteReady(ctx, n.store, state.Ready{ID: r.ID, Site: "busan", Host: "host-b", Refusal: refusal})
	if err != nil {
		n.t.Error(err)
	}
}

// takeUp fences the log right behind the entry that hands over.
func (n *neighbour) takeUp(ctx context.Context, l *twin.Log) error {
	end := l.ReadPoint(time.Now())
	token := segment.Token{Epoch: end.Token.Epoch + 1, Writer: uuid.New()}
	c := claim.TakeOver(token, claim.Place{Position: end.Position, Next: end.Index + 1, Token: end.Token}, end.Index)
	for c.Step() != claim.Done {
		var err error
		switch at := c.Place(); c.Step() {
		case claim.Read:
			var x *segment.Index
			if x, err = objlog.ReadIndex(ctx, n.store, at.Position); fail.Is(err, fail.NotFound) {
				err = c.Absent()
			} else if err == nil {
				_, err = c.Found(claim.Of(x), 0)
			}
		case claim.Create:
			doc := state.Fence{NextIndex: at.Next, Site: "busan"}
			obj := segment.Document(segment.Head{Type: segment.Fence, Journal: l.Identity.Journal, Token: token,
				ChecksTail: true, Position: at.Position, DurablePosition: at.Position, FirstIndex: at.Next,
				Time: time.Now().UnixNano()}, state.KindFence, doc)
			if err = n.store.Create(ctx, objlog.ObjectName(at.Position), obj); fail.Is(err, fail.Exists) {
				c.Refused()
				err = nil
			} else if err == nil {
				c.Created()
			}
		default:
			var k *claim.Catalog
			if k, err = claim.NewestCatalog(ctx, n.store, l.Identity.Journal, c.Began()); err == nil {
				err = c.Catalog(k)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// handOverSite runs an agent at seoul, whose store is at busan, with a volume that was written to.
func handOverSite(t *testing.T) (*Daemon, *config.Agent, *neighbour) {
	dir, err := os.MkdirTemp("/tmp", "ho-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	store := filepath.Join(dir, "bucket")
	if err := os.Mkdir(store, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "a.yaml")
	text := fmt.Sprintf("name: a\nsite: seoul\nstate: %s/a\nruntime: %s/run\njournal:\n  targets:\n"+
		"  - {name: far, url: %q, site: busan}\n", dir, dir, "file://"+store)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	conf, err := config.LoadAgent(path)
	if err != nil {
		t.Fatal(err)
	}
	d := startTest(t, conf, testHooks{})
	svc := d.service()
	if _, err := svc.GroupPut(t.Context(), api.GroupPut{Name: "g", Create: true}); err != nil {
		t.Fatal(err)
	}
	_, err = svc.VolumeCreate(t.Context(), api.VolumeCreate{Name: "v", Group: "g", SizeBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	s, err := objstore.Open(t.Context(), "file://"+store, objstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	putByte(t, conf, 'A')
	return d, conf, &neighbour{t, s, map[uuid.UUID]bool{}}
}

func dialTest(t *testing.T, conf *config.Agent) *nbdclient.Conn {
	t.Helper()
	c, err := nbdclient.DialAddr(t.Context(), "unix", conf.NBD.Unix, "v", nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func putByte(t *testing.T, conf *config.Agent, fill byte) {
	t.Helper()
	c := dialTest(t, conf)
	defer c.Close()
	if err := c.WriteAt(t.Context(), []byte(strings.Repeat(string(fill), 4096)), 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestHandOver: what was acknowledged is in the log before the entry that hands over, the site that
// takes it up supersedes this one, and writes that wait meanwhile are refused, not served.
func TestHandOver(t *testing.T) {
	d, conf, n := handOverSite(t)
	c := dialTest(t, conf)
	defer c.Close()
	stop, wrote, last := make(chan struct{}), make(chan error, 1), byte(0)
	go func() { // a client under load
		for i := byte(1); ; i++ {
			if err := c.WriteAt(t.Context(), []byte{i}, 8192, 0); err != nil {
				wrote <- err
				return
			}
			last = i
			select {
			case <-stop:
				wrote <- nil
				return
			default:
			}
		}
	}()
	defer close(stop)
	took := make(chan *twin.Log, 1)
	go func() {
		n.ready(t.Context(), "")
		_, l := n.await(t.Context(), state.HandOverHand)
		if err := n.takeUp(t.Context(), l); err != nil {
			t.Error(err)
		}
		took <- l
	}()
	out, err := d.service().HandOver(t.Context(), api.HandOver{To: "busan"})
	if err != nil || out.Outcome != "taken up" || out.Host != "host-b" || out.Index == 0 {
		t.Fatal(out, err)
	}
	if err := <-wrote; err == nil {
		t.Error("a client goes on here")
	}
	l := <-took
	v := l.State.Volumes["v"]
	p, err := l.Resolve(t.Context(), v, "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if st := d.agent.Status().Streams[0]; st.LastLSN != p.LSN {
		t.Errorf("acknowledged up to LSN %d, the log ends at %d", st.LastLSN, p.LSN)
	}
	b := make([]byte, 1)
	if err := readTwin(t, l, v, p, b, 8192); err != nil || b[0] != last {
		t.Errorf("the last acknowledged write is %d, the log has %d: %v", last, b[0], err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func readTwin(t *testing.T, l *twin.Log, v *state.Volume, p twin.Point, b []byte, off int64) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), "v.img")
	to, err := image.Inspect(path, v.SizeBytes)
	if err != nil {
		return err
	}
	if _, err := image.Restore(t.Context(), l, p, to, image.Options{}); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.ReadAt(b, off)
	return err
}

// TestHandOverNotTakenUp: it is taken back after its limit, and I/O goes on: the site that comes
// late is refused. One that cannot, or nobody, ends it before any I/O waits.
func TestHandOverNotTakenUp(t *testing.T) {
	d, conf, n := handOverSite(t)
	defer d.Close()
	svc := d.service()
	if _, err := svc.HandOver(t.Context(), api.HandOver{To: "busan", WaitSeconds: 0.2}); !fail.Is(err, fail.Retry) {
		t.Errorf("nobody answers: %v", err)
	}
	if r, _ := n.await(t.Context(), state.HandOverOver); r != nil {
		n.known[r.ID] = true
	}
	go n.ready(t.Context(), "volume v is being copied")
	if _, err := svc.HandOver(t.Context(), api.HandOver{To: "busan"}); !fail.Is(err, fail.Refused) ||
		!strings.Contains(err.Error(), "being copied") {
		t.Errorf("it cannot: %v", err)
	}
	if r, _ := n.await(t.Context(), state.HandOverOver); r != nil {
		n.known[r.ID] = true
	}
	found := make(chan *twin.Log, 1)
	go func() {
		n.ready(t.Context(), "")
		_, l := n.await(t.Context(), state.HandOverHand)
		found <- l
	}()
	if _, err := svc.HandOver(t.Context(), api.HandOver{To: "busan", LimitSeconds: 0.5}); !fail.Is(err, fail.Retry) {
		t.Errorf("it is not taken up: %v", err)
	}
	putByte(t, conf, 'B')
	if err := n.takeUp(t.Context(), <-found); err == nil || !strings.Contains(err.Error(), "taken the hand-over back") {
		t.Errorf("who comes late: %v", err)
	}
	putByte(t, conf, 'C')
	if _, err := svc.HandOver(t.Context(), api.HandOver{To: "busan", DryRun: true}); err != nil {
		t.Errorf("dry run: %v", err)
	}
	for what, r := range map[string]api.HandOver{"where it is": {To: "seoul"}, "no site": {To: "/"},
		"no limit": {To: "busan", LimitSeconds: -1}} {
		if _, err := svc.HandOver(t.Context(), r); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
}

// TestHandOverCutShort: an agent that stops when the journal is handed over serves nobody at the
// next start before it is certain that nobody took it up.
func TestHandOverCutShort(t *testing.T) {
	for _, taken := range []bool{false, true} {
		d, conf, n := handOverSite(t)
		handed := make(chan *twin.Log, 1)
		go func() {
			n.ready(t.Context(), "")
			_, l := n.await(t.Context(), state.HandOverHand)
			handed <- l
		}()
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _, _ = d.service().HandOver(ctx, api.HandOver{To: "busan", LimitSeconds: 60}) }()
		l := <-handed
		began := time.Now()
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("it took %v to stop", took)
		}
		cancel()
		if taken {
			if err := n.takeUp(t.Context(), l); err != nil {
				t.Fatal(err)
			}
		}
		d = startTest(t, conf, testHooks{})
		for d.superseded.Load() == nil && d.unresolved() != nil {
			if _, err := (exports{d.agent, d}).Open(t.Context(), "v"); err == nil && d.unresolved() != nil {
				t.Error("served while nobody knew who is the seat")
			}
			time.Sleep(time.Millisecond)
		}
		_, err := exports{d.agent, d}.Open(t.Context(), "v")
		if taken && !fail.Is(err, fail.Fenced) || !taken && err != nil {
			t.Errorf("taken up %v: %v", taken, err)
		}
		if !taken {
			putByte(t, conf, 'D')
			if err := n.takeUp(t.Context(), l); err == nil {
				t.Error("taken up after it was taken back")
			}
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}
