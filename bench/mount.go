package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbdclient"
)

// MountReport is the outcome of Mount.
type MountReport struct {
	Header
	Writes    int64 `json:"writes"`     // random blocks of 4 KiB that made the volume
	SizeBytes int64 `json:"size_bytes"` // of the volume
	LogBytes  int64 `json:"log_bytes"`
	Opens     int   `json:"opens"`
	// OpenMS is from the start of a fresh process, with an empty cache, to the first live
	// block that was read through it.
	OpenMS struct {
		P50 float64 `json:"p50"`
		P99 float64 `json:"p99"`
		Max float64 `json:"max"`
	} `json:"open_ms"`
	ColdReadMS struct { // of a block that is not here yet
		P50 float64 `json:"p50"`
		P99 float64 `json:"p99"`
	} `json:"cold_read_ms"`
	ReadIOPS     float64  `json:"read_iops"` // random 4 KiB, warm
	NBDKitIOPS   *float64 `json:"nbdkit_iops"`
	Ratio        *float64 `json:"ratio"` // median of the rounds
	PeakRSSBytes int64    `json:"peak_rss_bytes"`
	Rounds       int      `json:"rounds"`
}

// Text writes the report for people.
func (r *MountReport) Text(w io.Writer) {
	r.text(w)
	fmt.Fprintf(w, "\nvolume of %s made by %d random writes; log of %s\n", mib(r.SizeBytes), r.Writes, mib(r.LogBytes))
	fmt.Fprintf(w, "open, fresh process and cold cache, to the first live block: p50 %.0f ms, p99 %.0f ms, max "+
		"%.0f ms of %d\n", r.OpenMS.P50, r.OpenMS.P99, r.OpenMS.Max, r.Opens)
	fmt.Fprintf(w, "4 KiB that is not here yet: p50 %.1f ms, p99 %.1f ms\n", r.ColdReadMS.P50, r.ColdReadMS.P99)
	if r.Ratio != nil {
		fmt.Fprintf(w, "random 4 KiB reads, warm: %.0f/s, nbdkit's file plugin %.0f/s, ratio %.2f\n", r.ReadIOPS,
			*r.NBDKitIOPS, *r.Ratio)
	} else {
		fmt.Fprintf(w, "random 4 KiB reads, warm: %.0f/s\n", r.ReadIOPS)
	}
	fmt.Fprintf(w, "peak memory of a mount: %s\n", mib(r.PeakRSSBytes))
}

const (
	mountDepth = 16
	// warmBlocks are read again and again.
	warmBlocks = 20000
)

// Mount measures how soon a mount is there, and how fast it is once it is warm.
func Mount(ctx context.Context, o Options, writes int64, opens int) (*MountReport, error) {
	if o.Size == 0 {
		o.Size = 100 << 30
	}
	if o.Rounds == 0 {
		o.Rounds = 5
	}
	o.sparse = true
	if err := o.complete(2); err != nil {
		return nil, err
	}
	s, err := newSession(ctx, &o, "mount")
	if err != nil {
		return nil, err
	}
	defer s.close()
	rep := &MountReport{Writes: writes, SizeBytes: int64(o.Size), Opens: opens, Rounds: o.Rounds}
	a, offsets, err := s.scattered(ctx, writes)
	if err != nil {
		return nil, err
	}
	if err := s.catalog(ctx, a); err != nil {
		return nil, err
	}
	sizes, err := s.objectSizes(ctx, a.store, "log/")
	if err != nil {
		return nil, err
	}
	for _, n := range sizes {
		rep.LogBytes += n
	}
	s.settle()
	if err := s.opens(ctx, a, rep, offsets); err != nil {
		return nil, err
	}
	if err := s.warmReads(ctx, a, rep, offsets); err != nil {
		return nil, err
	}
	rep.Header = s.finish()
	return rep, nil
}

// scattered leaves a log of random writes all over a volume, and where they went.
func (s *session) scattered(ctx context.Context, writes int64) (*agentProc, []int64, error) {
	s.o.Say(fmt.Sprintf("writing %d blocks at random", writes))
	a, err := s.startAgent(ctx, "agent", 0)
	if err != nil {
		return nil, nil, err
	}
	defer a.kill()
	if err := s.overwrite(ctx, a.uri, writes); err != nil {
		return nil, nil, err
	}
	if _, err := a.drain(ctx); err != nil {
		return nil, nil, err
	}
	a.stop(drainTimeout)
	// The same generator again: where its writes went.
	g := newGenerator(overwriteCell, int64(s.o.Size), s.data, random(s.o.Seed, "overwrite", 0))
	offsets := make([]int64, writes)
	for i := range offsets {
		offsets[i], _ = g.write()
	}
	s.settle()
	return a, offsets, nil
}

// mounted is a pollux mount.
type mounted struct {
	cmd  *exec.Cmd
	conn *nbdclient.Conn
}

func (s *session) mountOnce(ctx context.Context, a *agentProc) (*mounted, error) {
	args := []string{"mount", volumeName, "--json", "--store", a.store, "--cache", s.dir, "--cache-size", "4GiB",
		"--log-cache", "", "--nbd", filepath.Join(s.dir, "m.sock")}
	if s.sopts.Endpoint != "" {
		args = append(args, "--endpoint", s.sopts.Endpoint, "--credentials-file", s.sopts.CredentialsFile, "--region",
			s.sopts.Region)
	}
	m := &mounted{cmd: exec.CommandContext(ctx, s.o.Program, args...)}
	var stderr bytes.Buffer
	m.cmd.Stderr = &stderr
	out, err := m.cmd.StdoutPipe()
	if err == nil {
		err = m.cmd.Start()
	}
	if err != nil {
		return nil, fail.Wrap(fail.Internal, "start", "pollux mount", err)
	}
	var ready struct {
		URI string `json:"uri"`
	}
	if err := json.NewDecoder(bufio.NewReader(out)).Decode(&ready); err == nil {
		m.conn, err = nbdclient.Dial(ctx, ready.URI, nil)
		if err == nil {
			return m, nil
		}
	}
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait()
	return nil, fail.New(fail.Internal, "start", "pollux mount", stderr.String())
}

func (m *mounted) end() {
	_ = m.conn.Close()
	_ = m.cmd.Process.Signal(syscall.SIGTERM)
	_ = m.cmd.Wait()
}

// peak is the most memory that the process had so far.
func (m *mounted) peak() int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.cmd.Process.Pid))
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmHWM:" {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n << 10
		}
	}
	return 0
}

func (s *session) opens(ctx context.Context, a *agentProc, rep *MountReport, offsets []int64) error {
	r := rand.New(rand.NewPCG(s.o.Seed, 77))
	var took, cold []float64
	for i := range rep.Opens {
		begin := time.Now()
		m, err := s.mountOnce(ctx, a)
		if err != nil {
			return err
		}
		buf := make([]byte, blockBytes)
		for k := range 10 {
			if k > 0 {
				begin = time.Now()
			}
			if err := m.conn.ReadAt(ctx, buf, offsets[r.IntN(len(offsets))]); err != nil {
				m.end()
				return err
			}
			if ms := time.Since(begin).Seconds() * 1000; k == 0 {
				took = append(took, ms)
			} else {
				cold = append(cold, ms)
			}
		}
		rep.PeakRSSBytes = max(rep.PeakRSSBytes, m.peak())
		m.end()
		if i%25 == 24 {
			s.o.Say(fmt.Sprintf("%d opens, the last in %.0f ms", i+1, took[i]))
		}
	}
	d := distribution(took)
	rep.OpenMS.P50, rep.OpenMS.P99, rep.OpenMS.Max = d.P50, d.P99, d.Max
	d = distribution(cold)
	rep.ColdReadMS.P50, rep.ColdReadMS.P99 = d.P50, d.P99
	return nil
}

// warmReads compares reading the same blocks again and again with nbdkit over a file.
func (s *session) warmReads(ctx context.Context, a *agentProc, rep *MountReport, offsets []int64) error {
	set := offsets[:min(len(offsets), warmBlocks)]
	m, err := s.mountOnce(ctx, a)
	if err != nil {
		return err
	}
	defer m.end()
	s.o.Say("warming up")
	if _, err := readAll(ctx, m.conn, set, 0); err != nil {
		return err
	}
	kit, err := s.startNBDKit(ctx)
	if err != nil {
		return err
	}
	defer kit.kill()
	var other *nbdclient.Conn
	if kit != nil {
		if other, err = nbdclient.Dial(ctx, kit.uri, nil); err != nil {
			return err
		}
		defer other.Close()
		b := make([]byte, blockBytes)
		for _, off := range set { // the file has the same blocks
			b[0]++
			if err := other.WriteAt(ctx, b, off, 0); err != nil {
				return err
			}
		}
	}
	var ours, theirs, ratios []float64
	for i := range rep.Rounds {
		n, err := readAll(ctx, m.conn, set, time.Duration(s.o.Seconds*1e9))
		if err != nil {
			return err
		}
		ours = append(ours, n)
		if other != nil {
			k, err := readAll(ctx, other, set, time.Duration(s.o.Seconds*1e9))
			if err != nil {
				return err
			}
			theirs, ratios = append(theirs, k), append(ratios, ratio(n, k))
			s.o.Say(fmt.Sprintf("round %d: %.0f reads/s, nbdkit %.0f", i+1, n, k))
		}
	}
	rep.ReadIOPS = median(ours)
	if len(theirs) > 0 {
		k, r := median(theirs), median(ratios)
		rep.NBDKitIOPS, rep.Ratio = &k, &r
	}
	rep.PeakRSSBytes = max(rep.PeakRSSBytes, m.peak())
	return nil
}

// readAll reads blocks, some at once: each of set once, or for some time at random. It
// returns how many each second.
func readAll(ctx context.Context, conn *nbdclient.Conn, set []int64, limit time.Duration) (float64, error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	count := 0
	begin := time.Now()
	for w := range mountDepth {
		wg.Go(func() {
			r, buf, n := rand.New(rand.NewPCG(uint64(w), 5)), make([]byte, blockBytes), 0
			var err error
			for i := w; err == nil && (limit > 0 || i < len(set)); i += mountDepth {
				off := set[i%len(set)]
				if limit > 0 {
					if off = set[r.IntN(len(set))]; n%64 == 0 && time.Since(begin) > limit {
						break
					}
				}
				err = conn.ReadAt(ctx, buf, off)
				n++
			}
			mu.Lock()
			defer mu.Unlock()
			count += n
			if failed == nil {
				failed = err
			}
		})
	}
	wg.Wait()
	return float64(count) / time.Since(begin).Seconds(), failed
}
