package bench

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/faultproxy"
	"github.com/pollux-dr/pollux/internal/nbdclient"
	"github.com/pollux-dr/pollux/internal/quantity"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/state"
)

// CatchupReport is the outcome of Catchup.
type CatchupReport struct {
	Header
	LinkBytesPerSecond int64          `json:"link_bytes_per_second"`
	WrittenBytes       int64          `json:"written_bytes"` // during the outage, in each run
	Folded             CatchupRun     `json:"folded"`        // medians
	PassThrough        CatchupRun     `json:"pass_through"`
	ShippedRatio       float64        `json:"shipped_ratio"` // folded over pass-through
	DrainSpeedup       float64        `json:"drain_speedup"` // pass-through over folded, in seconds
	Rounds             []CatchupRound `json:"rounds"`
}

// CatchupRun is how a backlog was drained.
type CatchupRun struct {
	DrainSeconds      float64 `json:"drain_seconds"`
	DrainMBPerSecond  float64 `json:"drain_mb_per_s"` // of written bytes
	ShippedBytes      int64   `json:"shipped_bytes"`
	ShippedPerWritten float64 `json:"shipped_per_written"`
}

// CatchupRound is one pair of runs with the same writes.
type CatchupRound struct {
	Folded      CatchupRun `json:"folded"`
	PassThrough CatchupRun `json:"pass_through"`
}

const (
	defaultCatchupSize = 32 << 20
	// overwrites is how often each block is written in an outage, on average.
	overwrites = 8
)

// catchupCell is a load that overwrites, as a database's does.
var catchupCell = cell{name: "catchup", bytes: blockBytes, depth: 16, flushEvery: 32}

// Catchup takes the store away, overwrites the volume some times, gives the store
// back over a slow link, and measures how long the backlog takes and what is
// shipped: with folding, and as it is.
func Catchup(ctx context.Context, o Options, link quantity.Bytes) (*CatchupReport, error) {
	if o.Size == 0 {
		o.Size = defaultCatchupSize
	}
	if err := o.complete(1); err != nil {
		return nil, err
	}
	switch {
	case o.Store != "":
		return nil, fail.New(fail.Invalid, "benchmark", "--store",
			"this one brings its own store, which goes away and comes back")
	case link < 1<<20:
		return nil, fail.New(fail.Invalid, "benchmark", "--link", "at least 1MiB per second")
	}
	s, err := newSession(ctx, &o, "catchup")
	if err != nil {
		return nil, err
	}
	defer s.close()
	if s.server == nil {
		return nil, fail.New(fail.Unsupported, "benchmark", "catchup",
			"there is no S3 server: it is built in a source checkout only")
	}
	s.head.Settings["rounds"], s.head.Settings["overwrites"] = o.Rounds, overwrites
	rep := &CatchupReport{LinkBytesPerSecond: int64(link), WrittenBytes: overwrites * int64(o.Size)}
	for i := range o.Rounds {
		var r CatchupRound
		if r.PassThrough, err = s.catchup(ctx, i, state.PITREveryWrite, int64(link)); err != nil {
			return nil, err
		}
		if r.Folded, err = s.catchup(ctx, i, state.PITRFold, int64(link)); err != nil {
			return nil, err
		}
		o.Say(fmt.Sprintf("round %d: folded %.1f s, %s; as it is %.1f s, %s", i+1, r.Folded.DrainSeconds,
			mib(r.Folded.ShippedBytes),
			r.PassThrough.DrainSeconds, mib(r.PassThrough.ShippedBytes)))
		rep.Rounds = append(rep.Rounds, r)
	}
	rep.sum()
	rep.Header = s.finish()
	return rep, nil
}

func (r *CatchupReport) sum() {
	med := func(of func(*CatchupRound) *CatchupRun) (m CatchupRun) {
		field := func(f func(*CatchupRun) float64) float64 {
			return median(column(r.Rounds, func(v *CatchupRound) float64 { return f(of(v)) }))
		}
		m.DrainSeconds = field(func(v *CatchupRun) float64 { return v.DrainSeconds })
		m.ShippedBytes = int64(field(func(v *CatchupRun) float64 { return float64(v.ShippedBytes) }))
		m.DrainMBPerSecond = ratio(float64(r.WrittenBytes)/1e6, m.DrainSeconds)
		m.ShippedPerWritten = ratio(float64(m.ShippedBytes), float64(r.WrittenBytes))
		return m
	}
	r.Folded, r.PassThrough = med(func(v *CatchupRound) *CatchupRun { return &v.Folded }),
		med(func(v *CatchupRound) *CatchupRun { return &v.PassThrough })
	r.ShippedRatio = ratio(float64(r.Folded.ShippedBytes), float64(r.PassThrough.ShippedBytes))
	r.DrainSpeedup = ratio(r.PassThrough.DrainSeconds, r.Folded.DrainSeconds)
}

// catchup is one run: a fresh agent, an outage, and the drain.
func (s *session) catchup(ctx context.Context, round int, pitr string, link int64) (run CatchupRun, err error) {
	server := s.sopts.Endpoint
	proxy, err := faultproxy.NewHTTP(strings.TrimPrefix(server, "http://"), s.o.Seed)
	if err != nil {
		return run, fail.Wrap(fail.Internal, "start", "proxy", err)
	}
	defer func() { _ = proxy.Close() }()
	s.sopts.Endpoint = "http://" + proxy.Addr()
	defer func() { s.sopts.Endpoint = server }()
	a, err := s.startAgent(ctx, fmt.Sprintf("%s-%d", pitr, round), 0)
	if err != nil {
		return run, err
	}
	defer a.kill()
	var g api.Group
	if err := a.control.Call(ctx, api.VerbGroupPut, api.GroupPut{Name: groupName, PITR: &pitr}, &g); err != nil {
		return run, err
	}
	if _, err := a.drain(ctx); err != nil {
		return run, err
	}
	before, err := a.shipped(ctx)
	if err != nil {
		return run, err
	}
	proxy.Set(faultproxy.Faults{Refuse: true})
	conn, err := nbdclient.Dial(ctx, a.uri, nil)
	if err != nil {
		return run, err
	}
	defer conn.Close()
	gen := newGenerator(catchupCell, int64(s.o.Size), s.data, random(s.o.Seed, catchupCell.name, round))
	if _, err := runWrites(ctx, conn, gen, overwrites*int64(s.o.Size)/blockBytes); err != nil {
		return run, err
	}
	if err := a.idle(ctx); err != nil {
		return run, err
	}
	begin := time.Now()
	proxy.Set(faultproxy.Faults{BytesPerSecond: link})
	if _, err := a.drain(ctx); err != nil {
		return run, err
	}
	run.DrainSeconds = time.Since(begin).Seconds()
	after, err := a.shipped(ctx)
	run.ShippedBytes = after - before
	written := overwrites * int64(s.o.Size)
	run.DrainMBPerSecond, run.ShippedPerWritten = ratio(float64(written)/1e6, run.DrainSeconds),
		ratio(float64(run.ShippedBytes), float64(written))
	return run, err
}

// shipped is the bytes of all objects so far.
func (a *agentProc) shipped(ctx context.Context) (int64, error) {
	st, err := a.status(ctx)
	if err != nil {
		return 0, err
	}
	return st.Targets[0].ShippedBytes, nil
}

// Text writes the report for people.
func (r *CatchupReport) Text(w io.Writer) {
	r.text(w)
	fmt.Fprintf(w, "\n%s written while the store was away, every block %d times; then a link of %s/s\n",
		mib(r.WrittenBytes), overwrites, mib(r.LinkBytesPerSecond))
	row := func(name string, v *CatchupRun) []string {
		return []string{name, fmt.Sprintf("%.1f s", v.DrainSeconds), fmt.Sprintf("%.1f MB/s", v.DrainMBPerSecond),
			mib(v.ShippedBytes), fmt.Sprintf("%.3f", v.ShippedPerWritten)}
	}
	text.Table(w, [][]string{{"", "DRAINED IN", "OF WRITTEN", "SHIPPED", "PER WRITTEN"}, row("folded", &r.Folded),
		row("as it is", &r.PassThrough)})
	fmt.Fprintf(w, "shipped ratio %.2f, drained %.1f times as fast\n", r.ShippedRatio, r.DrainSpeedup)
}
