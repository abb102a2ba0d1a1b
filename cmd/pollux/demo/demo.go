package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/child"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbdclient"
	"github.com/pollux-dr/pollux/internal/text"
)

// Options configure a run.
type Options struct {
	Dir       string // temporary; removed by the caller
	Runtime   string // on tmpfs
	Binary    string // pollux
	Store     string // URL
	StoreArgs []string
	Target    string // the target's other settings, as YAML lines
	SizeBytes int64
	Load      time.Duration
	Seed      uint64
	Out       io.Writer // progress for people
}

// Report is what a run found.
type Report struct {
	Verified     bool    `json:"verified"`
	Lag          Lag     `json:"lag_seconds"`
	RPOWrites    uint64  `json:"rpo_writes"`
	RPOSeconds   float64 `json:"rpo_seconds"`
	RTOSeconds   float64 `json:"rto_seconds"`
	BytesWritten int64   `json:"bytes_written"`
	BytesShipped int64   `json:"bytes_shipped"`
	BytesStored  int64   `json:"bytes_stored"`

	Writes        uint64  `json:"writes"`
	Flushes       uint64  `json:"flushes"`
	LastAckedLSN  uint64  `json:"last_acked_lsn"`
	DurableLSN    uint64  `json:"last_durable_lsn"` // last one reported before the loss
	RestoredLSN   uint64  `json:"restored_lsn"`
	BookmarkLSN   uint64  `json:"bookmark_lsn"`
	RestoreMBps   float64 `json:"restore_mb_per_s"`
	SizeBytes     int64   `json:"size_bytes"`
	Seed          uint64  `json:"seed"`
	Store         string  `json:"store"`
	FailureReason string  `json:"failure,omitempty"`
}

// Lag is the distribution of the lag that the agent reported during the load.
type Lag struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

const (
	group    = "demo"
	volume   = "vol"
	bookmark = "half-way"
)

// Run plays the whole piece.
func Run(ctx context.Context, o Options) (*Report, error) {
	d := &run{Options: o, state: filepath.Join(o.Dir, "state"), model: newModel(o.SizeBytes, o.Seed)}
	d.rep = Report{SizeBytes: o.SizeBytes, Seed: o.Seed, Store: o.Store}
	defer d.killAgent()
	d.say("1. A volume of %s behind NBD, an embedded journal, and an object store for the remote site:\n   %s",
		text.Bytes(o.SizeBytes), o.Store)
	if err := d.start(ctx); err != nil {
		return nil, err
	}
	d.say("2. Load for %v: a file tree is packed onto the volume, then overwritten at random, with flushes and trims.",
		o.Load)
	if err := d.load(ctx); err != nil {
		return nil, err
	}
	d.say("3. The site is lost: the agent was killed (SIGKILL) in mid-load, its state directory is deleted.")
	lost := time.Now()
	if err := d.lose(); err != nil {
		return nil, err
	}
	d.say("4. Restoring from the object store alone.")
	if err := d.restore(ctx, lost); err != nil {
		return nil, err
	}
	return &d.rep, nil
}

// run is a demo under way.
type run struct {
	Options
	state string
	agent *child.Process
	model *model
	rep   Report
	watch watcher
}

func (d *run) say(format string, args ...any) { fmt.Fprintf(d.Out, format+"\n", args...) }

func (d *run) socket() string { return filepath.Join(d.state, "control.sock") }

// start brings the agent up and creates group and volume with the same verbs
// that an operator uses.
func (d *run) start(ctx context.Context) error {
	conf := fmt.Sprintf("name: demo\nsite: here\nstate: %q\nruntime: %q\nmemory: 64MiB\njournal:\n  targets:\n"+
		"    - name: remote\n      site: there\n      url: %q\n%s", d.state, d.Runtime, d.Store, d.Target)
	path := filepath.Join(d.Dir, "agent.yaml")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		return fail.Wrap(fail.Full, "write", path, err)
	}
	var err error
	if d.agent, err = startAgent(ctx, d.Binary, path, d.socket(), filepath.Join(d.Dir, "agent.log")); err != nil {
		return err
	}
	if err := d.verb(ctx, nil, "group", "create", group); err != nil {
		return err
	}
	if err := d.verb(ctx, nil, "volume", "create", volume, "--group", group, "--size",
		fmt.Sprint(d.SizeBytes)); err != nil {
		return err
	}
	return d.reached(ctx)
}

// reached waits for the first object in the store: with one that takes nothing
// there is nothing to show.
func (d *run) reached(ctx context.Context) error {
	late := time.NewTimer(storeTimeout)
	defer late.Stop()
	for {
		var st api.Status
		if err := api.Dial(d.socket()).Call(ctx, api.VerbStatus, struct{}{}, &st); err != nil {
			return err
		}
		if len(st.Targets) > 0 && st.Targets[0].LastSuccess != nil && st.Targets[0].Error == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-late.C:
			return fail.New(fail.Retry, "write to", d.Store, "no object arrived: "+st.Targets[0].Error).
				WithHint("check --store, --endpoint and the credentials; pollux doctor --store tells more")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

const storeTimeout = 15 * time.Second

// load writes until the time is over, sets the bookmark half way, and kills the
// agent while requests are on their way.
func (d *run) load(ctx context.Context) error {
	tree, err := findTree()
	if err != nil {
		return err
	}
	d.say("   contents from %s, seed %d", tree, d.Seed)
	conn, err := nbdclient.Dial(ctx, "nbd+unix:///"+volume+"?socket="+filepath.Join(d.state, "nbd.sock"), nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	watchCtx, stop := context.WithCancel(ctx)
	defer stop()
	watched := make(chan struct{})
	go func() { defer close(watched); d.watch.run(watchCtx, api.Dial(d.socket()), d.Out) }()

	w := newWriter(conn, d.model)
	begin := time.Now()
	if err := w.pack(ctx, tree, d.SizeBytes/2, begin.Add(d.Load*2/5)); err != nil {
		return err
	}
	if err := w.overwrite(ctx, begin.Add(d.Load/2)); err != nil {
		return err
	}
	if err := d.mark(ctx, w); err != nil {
		return err
	}
	struck, killed := make(chan struct{}), make(chan struct{})
	timer := time.AfterFunc(time.Until(begin.Add(d.Load)), func() { close(struck); d.killAgent(); close(killed) })
	defer timer.Stop()
	err = w.overwrite(ctx, begin.Add(d.Load+time.Minute)) // until the connection dies
	select {
	case <-struck:
		<-killed
	default:
		return fail.Wrap(fail.KindOf(err), "write", "volume", err) // it failed before the blow
	}
	killTime := time.Now()
	stop()
	<-watched
	w.settle()
	d.rep.Lag, d.rep.DurableLSN, d.rep.BytesShipped = d.watch.result()
	d.rep.LastAckedLSN, d.rep.Writes, d.rep.Flushes = w.acked, d.model.writes(), w.flushes
	d.rep.BytesWritten = d.model.bytes
	d.model.ended = killTime
	return ctx.Err()
}

// mark sets the bookmark between two requests, so that the model knows its LSN.
func (d *run) mark(ctx context.Context, w *writer) error {
	if err := w.drain(ctx); err != nil {
		return err
	}
	var b api.Bookmark
	if err := d.verb(ctx, &b, "bookmark", "add", bookmark, "--group", group); err != nil {
		return err
	}
	if want := d.model.mark(); b.LSN != want {
		return fail.New(fail.Internal, "compare", "bookmark", fmt.Sprintf("its LSN is %d, the model's %d", b.LSN, want))
	}
	w.acked = b.LSN
	d.rep.BookmarkLSN = b.LSN
	d.say("   bookmark %q set at LSN %d", bookmark, b.LSN)
	return nil
}

func (d *run) killAgent() {
	if d.agent != nil {
		d.agent.Kill()
	}
}

// lose deletes all that the site had.
func (d *run) lose() error {
	for _, dir := range []string{d.state, d.Runtime} {
		if err := os.RemoveAll(dir); err != nil {
			return fail.Wrap(fail.Denied, "delete", dir, err)
		}
	}
	return nil
}
