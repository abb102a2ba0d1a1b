package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/pollux-dr/pollux/bench/twosites"
	"github.com/pollux-dr/pollux/control/api"
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
	Verified     bool         `json:"verified"`
	Lag          twosites.Lag `json:"lag_seconds"`
	RPOWrites    uint64       `json:"rpo_writes"`
	RPOSeconds   float64      `json:"rpo_seconds"`
	RTOSeconds   float64      `json:"rto_seconds"`
	BytesWritten int64        `json:"bytes_written"`
	BytesShipped int64        `json:"bytes_shipped"`
	BytesStored  int64        `json:"bytes_stored"`

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

const (
	group    = "demo"
	volume   = "vol"
	bookmark = "half-way"
)

// Run plays the whole piece.
func Run(ctx context.Context, o Options) (*Report, error) {
	d := &run{Options: o, watch: twosites.Watch{Group: group}}
	d.rep = Report{SizeBytes: o.SizeBytes, Seed: o.Seed, Store: o.Store}
	d.watch.Show = d.progress
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
	host  *twosites.Host
	model *twosites.Model
	rep   Report
	watch twosites.Watch
	ended time.Time
}

func (d *run) say(format string, args ...any) { fmt.Fprintf(d.Out, format+"\n", args...) }

func (d *run) progress(since time.Duration, g *api.GroupStatus) {
	d.say("   %3.0f s  %-11s lag %7.1f ms  behind %9s  LSN %d, durable %d", since.Seconds(), g.State,
		g.LagSeconds*1000, text.Bytes(g.LagBytes), g.LastLSN, g.DurableLSN)
}

// lab is where hosts run.
func (o *Options) lab() *twosites.Lab {
	return &twosites.Lab{Program: o.Binary, Dir: o.Dir, Runtime: o.Runtime, Store: o.Store, StoreArgs: o.StoreArgs,
		Target: o.Target}
}

// start brings the agent up and creates group and volume with the same verbs
// that an operator uses.
func (d *run) start(ctx context.Context) (err error) {
	if d.host, err = d.lab().Host("demo", "here"); err != nil {
		return err
	}
	if err := d.host.StartAgent(ctx); err != nil {
		return err
	}
	if err := d.host.Verb(ctx, nil, "group", "create", group); err != nil {
		return err
	}
	if err := d.host.Verb(ctx, nil, "volume", "create", volume, "--group", group, "--size",
		fmt.Sprint(d.SizeBytes)); err != nil {
		return err
	}
	return reached(ctx, d.host, d.Store)
}

// reached waits for the first object in the store: with one that takes nothing
// there is nothing to show.
func reached(ctx context.Context, h *twosites.Host, store string) error {
	return h.Until(ctx, storeTimeout, "an object has arrived", func() error {
		st, err := h.Status(ctx)
		if err != nil {
			return err
		}
		if len(st.Targets) > 0 && st.Targets[0].LastSuccess != nil && st.Targets[0].Error == "" {
			return nil
		}
		return fail.New(fail.Retry, "write to", store, "no object arrived: "+st.Targets[0].Error).
			WithHint("check --store, --endpoint and the credentials; pollux doctor --store tells more")
	})
}

const storeTimeout = 15 * time.Second

// load writes until the time is over, sets the bookmark half way, and kills the
// agent while requests are on their way.
func (d *run) load(ctx context.Context) error {
	pool, tree, err := twosites.ReadPool()
	if err != nil {
		return err
	}
	d.model = twosites.NewModel(d.SizeBytes, d.Seed, pool)
	d.say("   contents from %s, seed %d", tree, d.Seed)
	conn, err := nbdclient.Dial(ctx, d.host.URI(volume), nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	watchCtx, stop := context.WithCancel(ctx)
	defer stop()
	watched := make(chan struct{})
	go func() { defer close(watched); d.watch.Run(watchCtx, d.host) }()

	w := twosites.NewWriter(conn, d.model, load, nil)
	begin := time.Now()
	if err := w.Pack(ctx, d.SizeBytes/2, begin.Add(d.Load*2/5)); err != nil {
		return err
	}
	if err := w.Overwrite(ctx, begin.Add(d.Load/2)); err != nil {
		return err
	}
	if err := d.mark(ctx, w); err != nil {
		return err
	}
	struck, killed := make(chan struct{}), make(chan struct{})
	timer := time.AfterFunc(time.Until(begin.Add(d.Load)), func() { close(struck); d.killAgent(); close(killed) })
	defer timer.Stop()
	err = w.Overwrite(ctx, begin.Add(d.Load+time.Minute)) // until the connection dies
	select {
	case <-struck:
		<-killed
	default:
		return fail.Wrap(fail.KindOf(err), "write", "volume", err) // it failed before the blow
	}
	d.ended = time.Now()
	stop()
	<-watched
	w.Settle()
	d.rep.Lag, d.rep.DurableLSN, d.rep.BytesShipped = d.watch.Result()
	d.rep.LastAckedLSN, d.rep.Writes, d.rep.Flushes = d.model.Acked(), d.model.Writes(), w.Flushes()
	d.rep.BytesWritten = d.model.Written()
	return ctx.Err()
}

// load of the volume: an object store on the same machine can follow it.
var load = twosites.Load{Depth: 16, FlushEvery: 32, OpsPerSecond: 3000}

// mark sets the bookmark between two requests, so that the model knows its LSN.
func (d *run) mark(ctx context.Context, w *twosites.Writer) error {
	if err := w.Drain(ctx); err != nil {
		return err
	}
	var b api.Bookmark
	if err := d.host.Verb(ctx, &b, "bookmark", "add", bookmark, "--group", group); err != nil {
		return err
	}
	if want := d.model.Mark(); b.LSN != want {
		return fail.New(fail.Internal, "compare", "bookmark", fmt.Sprintf("its LSN is %d, the model's %d", b.LSN, want))
	}
	d.rep.BookmarkLSN = b.LSN
	d.say("   bookmark %q set at LSN %d", bookmark, b.LSN)
	return nil
}

func (d *run) killAgent() {
	if d.host != nil {
		d.host.Kill()
	}
}

// lose deletes all that the site had.
func (d *run) lose() error {
	for _, dir := range []string{d.host.State(), d.Runtime} {
		if err := os.RemoveAll(dir); err != nil {
			return fail.Wrap(fail.Denied, "delete", dir, err)
		}
	}
	return nil
}
