package bench

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbdclient"
	"github.com/pollux-dr/pollux/internal/text"
)

// ScaleReport is the outcome of Scale.
type ScaleReport struct {
	Header
	Groups            int     `json:"groups"`
	Busy              int     `json:"busy_groups"`
	IdleCPUPercent    float64 `json:"idle_cpu_percent"`       // of one CPU, agent and journal, while nothing is written
	BytesPerGroup     float64 `json:"bytes_per_group"`        // of resident memory, with the volume
	RequestsPerMinute float64 `json:"store_requests_per_min"` // while nothing is written
	LagMS             Dist    `json:"lag_ms"`                 // of the busy groups, as the status has it
	CreateSeconds     float64 `json:"create_seconds"`
}

const (
	scaleVolumeBytes = 1 << 20
	scaleBusyPart    = 20 // one group in so many
	scaleRate        = 10 // writes per second of a busy group
	maxGroups        = 20_000
)

// Scale measures what many groups cost, most of them idle: one agent with its
// journal, one volume a group.
func Scale(ctx context.Context, o Options, groups int) (*ScaleReport, error) {
	if err := o.complete(20); err != nil {
		return nil, err
	}
	if groups < scaleBusyPart || groups > maxGroups {
		return nil, fail.New(fail.Invalid, "measure", "scale",
			fmt.Sprintf("%d groups: %d to %d", groups, scaleBusyPart, maxGroups))
	}
	s, err := newSession(ctx, &o, "scale")
	if err != nil {
		return nil, err
	}
	defer s.close()
	s.head.Settings["seconds"], s.head.Settings["groups"] = o.Seconds, groups
	rep := &ScaleReport{Groups: groups, Busy: groups / scaleBusyPart}
	a, err := s.startScaled(ctx)
	if err != nil {
		return nil, err
	}
	defer a.kill()
	before := rss(a.PID())
	if rep.CreateSeconds, err = a.createMany(ctx, groups, o.Say); err != nil {
		return nil, err
	}
	if err := pause(ctx, 3*time.Second); err != nil { // what creation left to do
		return nil, err
	}
	rep.BytesPerGroup = float64(rss(a.PID())-before) / float64(groups)
	if err := s.idleRun(ctx, a, rep); err != nil {
		return nil, err
	}
	if rep.LagMS, err = a.busyRun(ctx, rep.Busy, &o); err != nil {
		return nil, err
	}
	a.stop(drainTimeout)
	rep.Header = s.finish()
	return rep, nil
}

// startScaled runs an agent without a volume.
func (s *session) startScaled(ctx context.Context) (*agentProc, error) {
	a := &agentProc{dir: filepath.Join(s.dir, "agent"), store: s.prefix("agent")}
	a.socket = filepath.Join(a.dir, "control.sock")
	if err := os.Mkdir(a.dir, 0o700); err != nil {
		return nil, fail.Wrap(fail.Denied, "create", a.dir, err)
	}
	conf := filepath.Join(a.dir, "agent.yaml")
	if err := os.WriteFile(conf, []byte(s.agentYAML(a, "agent", -1)), 0o600); err != nil {
		return nil, fail.Wrap(fail.Denied, "create", conf, err)
	}
	var err error
	if a.proc, err = startProc(s.dir, "agent", exec.Command(s.o.Program, "agent", "-c", conf)); err != nil {
		return nil, err
	}
	a.control = api.Dial(a.socket)
	return a, try(ctx, a.proc, func() error { _, err := a.status(ctx); return err })
}

func scaleName(i int) string { return fmt.Sprintf("g%05d", i) }

func (a *agentProc) createMany(ctx context.Context, groups int, say func(string)) (seconds float64, err error) {
	start := time.Now()
	for i := range groups {
		name := scaleName(i)
		var g api.Group
		if err := a.control.Call(ctx, api.VerbGroupPut, api.GroupPut{Name: name, Create: true}, &g); err != nil {
			return 0, err
		}
		var v api.Volume
		if err := a.control.Call(ctx, api.VerbVolumeCreate,
			api.VolumeCreate{Name: name, Group: name, SizeBytes: scaleVolumeBytes}, &v); err != nil {
			return 0, err
		}
		if (i+1)%200 == 0 {
			say(fmt.Sprintf("%d of %d groups", i+1, groups))
		}
	}
	return time.Since(start).Seconds(), nil
}

// idleRun looks at the agent while nobody writes.
func (s *session) idleRun(ctx context.Context, a *agentProc, rep *ScaleReport) error {
	objects := func() (int, error) {
		all, err := s.objects(ctx, a.store, "")
		return len(all), err
	}
	first, err := objects()
	if err != nil {
		return err
	}
	s.o.Say(fmt.Sprintf("idle for %g s", s.o.Seconds))
	cpu, start := a.cpuSeconds(), time.Now()
	if err := pause(ctx, time.Duration(s.o.Seconds*float64(time.Second))); err != nil {
		return err
	}
	took := time.Since(start).Seconds()
	rep.IdleCPUPercent = 100 * (a.cpuSeconds() - cpu) / took
	last, err := objects()
	rep.RequestsPerMinute = float64(last-first) / took * 60
	return err
}

// busyRun writes to some groups and looks at their lag.
func (a *agentProc) busyRun(ctx context.Context, busy int, o *Options) (Dist, error) {
	o.Say(fmt.Sprintf("%d groups busy for %g s", busy, o.Seconds))
	limited, cancel := context.WithTimeout(ctx, time.Duration(o.Seconds*float64(time.Second)))
	defer cancel()
	g, gctx := errgroup.WithContext(limited)
	for i := range busy {
		g.Go(func() error { return a.trickle(gctx, scaleName(i*scaleBusyPart), o.Seed+uint64(i)) })
	}
	var mu sync.Mutex
	var lags []float64
	g.Go(func() error {
		for {
			if pause(gctx, 100*time.Millisecond) != nil {
				return nil
			}
			st, err := a.status(gctx)
			if gctx.Err() != nil {
				return nil
			}
			if err != nil {
				return err
			}
			mu.Lock()
			for i := 0; i < len(st.Groups); i += scaleBusyPart {
				lags = append(lags, st.Groups[i].LagSeconds*1000)
			}
			mu.Unlock()
		}
	})
	err := g.Wait()
	if ctx.Err() != nil {
		return Dist{}, ctx.Err()
	}
	return distribution(lags), err
}

// trickle writes to one volume at a slow rate, until ctx ends.
func (a *agentProc) trickle(ctx context.Context, name string, seed uint64) error {
	socket := filepath.Join(a.dir, "nbd.sock")
	conn, err := nbdclient.Dial(ctx, "nbd+unix:///"+name+"?socket="+socket, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	r := rand.New(rand.NewPCG(seed, 2))
	block := make([]byte, blockBytes)
	for ctx.Err() == nil {
		for i := range block {
			block[i] = byte(r.Uint32())
		}
		if err := conn.WriteAt(context.WithoutCancel(ctx), block, r.Int64N(scaleVolumeBytes/blockBytes)*blockBytes,
			0); err != nil {
			return err
		}
		_ = pause(ctx, time.Second/scaleRate)
	}
	return nil
}

// rss is a process's resident memory.
func rss(pid int) int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// Text writes the report for people.
func (r *ScaleReport) Text(w io.Writer) {
	r.text(w)
	fmt.Fprintln(w)
	text.Table(w, [][]string{
		{"GROUPS", "BUSY", "IDLE CPU", "MEMORY A GROUP", "STORE REQUESTS A MINUTE", "LAG P50", "LAG P99"},
		{fmt.Sprint(r.Groups), fmt.Sprint(r.Busy), fmt.Sprintf("%.1f %% of one", r.IdleCPUPercent),
			text.Bytes(int64(r.BytesPerGroup)),
			fmt.Sprintf("%.1f", r.RequestsPerMinute), fmt.Sprintf("%.1f ms", r.LagMS.P50),
			fmt.Sprintf("%.1f ms", r.LagMS.P99)},
	})
	fmt.Fprintln(w, "targets: 2 % of one CPU while idle, 256 KiB a group")
}
