package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/pollux-dr/pollux/bench/raftbench"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/journal"
)

// JournalOptions configure Journal.
type JournalOptions struct {
	Program string  // this binary
	Dir     string  // where the stores are, in turn
	Seconds float64 // of one run
	Rounds  int
	Version string
	Say     func(string)
}

// JournalReport is what `pollux bench journal` prints: each store's median round,
// by MB/s, for each size of entry.
type JournalReport struct {
	Machine Machine            `json:"machine"`
	Rounds  int                `json:"rounds"`
	Stores  []raftbench.Result `json:"stores"`
	Ratios  []JournalRatio     `json:"ratios,omitempty"`
	Note    string             `json:"note,omitempty"`
}

// JournalRatio is Pollux over raft-wal: medians of the rounds' ratios.
type JournalRatio struct {
	EntryBytes int     `json:"entry_bytes"`
	MBPerS     float64 `json:"mb_per_s"`
	CPUPerGiB  float64 `json:"cpu_s_per_gib"`
}

const journalInFlight = 16

var journalEntryBytes = []int{64 << 10, 256 << 10}

// ours is Pollux's log store, and the store that is none.
var ours = map[string]raftbench.Store{
	"pollux": func(dir string) (raft.LogStore, func() error, error) { return journal.OpenLogStore(vfs.Default, dir) },
	"in-memory": func(string) (raft.LogStore, func() error, error) {
		return raft.NewInmemStore(), func() error { return nil }, nil
	},
}

// JournalStore measures one of Pollux's own stores in this process.
func JournalStore(name string, l raftbench.Load) (raftbench.Result, error) {
	open := ours[name]
	if open == nil {
		return raftbench.Result{}, fail.New(fail.Invalid, "measure", name, "no such store")
	}
	r, err := raftbench.Run(name, open, l)
	return r, fail.Wrap(fail.Internal, "measure", name, err)
}

// Journal measures Raft on Pollux's log store, beside others where this is a source
// checkout: one store after the other within each round.
func Journal(ctx context.Context, o JournalOptions) (*JournalReport, error) {
	dir, err := os.MkdirTemp(o.Dir, "pollux-bench-")
	if err != nil {
		return nil, fail.Wrap(fail.Denied, "create", "temporary directory", err)
	}
	defer os.RemoveAll(dir)
	rep := &JournalReport{Machine: machine(dir, o.Version), Rounds: o.Rounds}
	program := func(store string) []string { return []string{o.Program, "bench", "journal-store", "--store", store} }
	runs := []struct {
		name string
		args []string
	}{{"pollux", program("pollux")}, {"in-memory", program("in-memory")}}
	if peers, err := buildPeers(ctx, dir); err != nil {
		rep.Note = "other stores were not measured: " + err.Error()
		o.Say(rep.Note)
	} else {
		for _, name := range []string{"raft-wal", "raft-boltdb"} {
			runs = append(runs, struct {
				name string
				args []string
			}{name, []string{peers, "-store", name}})
		}
	}
	for _, size := range journalEntryBytes {
		rounds := map[string][]raftbench.Result{}
		for round := range o.Rounds {
			for _, r := range runs {
				o.Say(fmt.Sprintf("%d KiB entries, round %d of %d: %s", size>>10, round+1, o.Rounds, r.name))
				args := append(r.args[1:len(r.args):len(r.args)], "-dir", dir, "-entry-bytes", fmt.Sprint(size),
					"-in-flight", fmt.Sprint(journalInFlight), "-seconds", fmt.Sprint(o.Seconds))
				if r.args[0] == o.Program {
					for i := range args {
						if strings.HasPrefix(args[i], "-") && !strings.HasPrefix(args[i], "--") {
							args[i] = "-" + args[i]
						}
					}
				}
				got, err := runStore(ctx, r.args[0], args)
				if err != nil {
					return nil, err
				}
				rounds[r.name] = append(rounds[r.name], got)
			}
		}
		for _, r := range runs {
			rep.Stores = append(rep.Stores, medianResult(rounds[r.name]))
		}
		if wal := rounds["raft-wal"]; len(wal) > 0 {
			q := JournalRatio{EntryBytes: size}
			var speed, cpu []float64
			for i := range wal {
				speed = append(speed, rounds["pollux"][i].MBPerS/wal[i].MBPerS)
				cpu = append(cpu, rounds["pollux"][i].CPUPerGiB/wal[i].CPUPerGiB)
			}
			q.MBPerS, q.CPUPerGiB = median(speed), median(cpu)
			rep.Ratios = append(rep.Ratios, q)
		}
	}
	return rep, nil
}

// medianResult is the round in the middle, by MB/s.
func medianResult(all []raftbench.Result) raftbench.Result {
	var speed []float64
	for i := range all {
		speed = append(speed, all[i].MBPerS)
	}
	m := median(speed)
	best := all[0]
	for i := range all {
		if abs(all[i].MBPerS-m) < abs(best.MBPerS-m) {
			best = all[i]
		}
	}
	return best
}

func abs(x float64) float64 { return max(x, -x) }

func runStore(ctx context.Context, program string, args []string) (r raftbench.Result, err error) {
	cmd := exec.CommandContext(ctx, program, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return r, fail.New(fail.Internal, "run", program+" "+strings.Join(args, " "),
			fmt.Sprintf("%v: %s", err, bytes.TrimSpace(stderr.Bytes())))
	}
	return r, fail.Wrap(fail.Internal, "decode result of", program, json.Unmarshal(out, &r))
}

// buildPeers builds the nested module with other stores. It is where the sources of
// this binary were, if they still are.
func buildPeers(ctx context.Context, dir string) (string, error) {
	root, err := sourceRoot()
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, "peers")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", out, ".")
	cmd.Dir = filepath.Join(root, "bench", "peers")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if b, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build in %s: %w: %s", cmd.Dir, err, bytes.TrimSpace(b))
	}
	return out, nil
}

// sourceRoot finds the checkout that the working directory is in.
func sourceRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	info, ok := debug.ReadBuildInfo()
	for ; ok; dir = filepath.Dir(dir) {
		b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(b, []byte("module "+info.Main.Path+"\n")) {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	return "", fmt.Errorf("the working directory is in no source checkout")
}

// Text prints the report for people.
func (r *JournalReport) Text(w io.Writer) {
	rows := [][]string{{"STORE", "ENTRY", "MB/S", "P50", "P99", "CPU S/GIB"}}
	for _, s := range r.Stores {
		rows = append(rows, []string{s.Name, text.Bytes(int64(s.EntryBytes)), fmt.Sprintf("%.0f", s.MBPerS),
			fmt.Sprintf("%.1f ms", s.P50ms), fmt.Sprintf("%.1f ms", s.P99ms), fmt.Sprintf("%.1f", s.CPUPerGiB)})
	}
	text.Table(w, rows)
	for _, q := range r.Ratios {
		fmt.Fprintf(w, "\n%s entries: %.2f times raft-wal's MB/s (target 2), %.2f of its CPU seconds per GiB "+
			"(target 0.5)", text.Bytes(int64(q.EntryBytes)), q.MBPerS, q.CPUPerGiB)
	}
	fmt.Fprintln(w)
	if r.Note != "" {
		fmt.Fprintln(w, r.Note)
	}
}
