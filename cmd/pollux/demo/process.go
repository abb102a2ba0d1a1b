package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/child"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/text"
)

// command prepares a child that dies with us.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, name, args...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return c
}

const startTimeout = 60 * time.Second

func startAgent(ctx context.Context, binary, config, socket, logPath string) (*child.Process, error) {
	log, err := os.Create(logPath)
	if err != nil {
		return nil, fail.Wrap(fail.Full, "create", logPath, err)
	}
	defer log.Close()
	cmd := exec.Command(binary, "agent", "-c", config)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := child.Start(cmd)
	if err != nil {
		return nil, fail.Wrap(fail.Internal, "start", binary, err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		var st api.Status
		err := api.Dial(socket).Call(ctx, api.VerbStatus, struct{}{}, &st)
		if err == nil {
			return p, nil
		}
		select {
		case <-p.Done():
			text, _ := os.ReadFile(logPath)
			return nil, fail.New(fail.OfExit(p.ExitCode()), "start", "agent", "it ended: "+lastWords(string(text)))
		case <-ctx.Done():
			p.Kill()
			return nil, fail.Wrap(fail.Retry, "start", "agent", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// lastWords returns what a process said when it ended: pollux's error and hint.
func lastWords(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if text, ok := strings.CutPrefix(lines[i], "pollux: "); ok {
			return strings.Join(append([]string{text}, lines[i+1:]...), ";")
		}
	}
	return lines[len(lines)-1]
}

// watcher samples the agent's status during the load.
type watcher struct {
	mu      sync.Mutex
	lags    []float64
	durable uint64
	shipped int64
}

const samplePeriod = 20 * time.Millisecond

func (w *watcher) run(ctx context.Context, c *api.Client, out io.Writer) {
	begin, shown := time.Now(), time.Now()
	tick := time.NewTicker(samplePeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var st api.Status
		if err := c.Call(ctx, api.VerbStatus, struct{}{}, &st); err != nil || len(st.Groups) == 0 {
			continue
		}
		g := st.Groups[0]
		w.mu.Lock()
		w.lags = append(w.lags, g.LagSeconds)
		w.durable = max(w.durable, g.DurableLSN)
		for _, t := range st.Targets {
			w.shipped = max(w.shipped, t.ShippedBytes)
		}
		w.mu.Unlock()
		if now := time.Now(); now.Sub(shown) >= time.Second {
			shown = now
			fmt.Fprintf(out, "   %3.0f s  %-11s lag %7.1f ms  behind %9s  LSN %d, durable %d\n",
				now.Sub(begin).Seconds(), g.State, g.LagSeconds*1000, text.Bytes(g.LagBytes), g.LastLSN, g.DurableLSN)
		}
	}
}

func (w *watcher) result() (Lag, uint64, int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.lags) == 0 {
		return Lag{}, w.durable, w.shipped
	}
	slices.Sort(w.lags)
	at := func(q float64) float64 { return w.lags[int(q*float64(len(w.lags)-1))] }
	return Lag{P50: at(0.5), P99: at(0.99), Max: at(1)}, w.durable, w.shipped
}
