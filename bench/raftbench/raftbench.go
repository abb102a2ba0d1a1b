package raftbench

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// Store opens a log store in an empty directory; close ends it.
type Store func(dir string) (logs raft.LogStore, close func() error, err error)

// Load is what is done to the stores.
type Load struct {
	Dir        string  `json:"-"`
	EntryBytes int     `json:"entry_bytes"`
	InFlight   int     `json:"in_flight"`
	Seconds    float64 `json:"seconds"`
}

// Result is one store under one load.
type Result struct {
	Name       string  `json:"name"`
	EntryBytes int     `json:"entry_bytes"`
	MBPerS     float64 `json:"mb_per_s"` // 1e6 bytes committed, counted once
	P50ms      float64 `json:"p50_ms"`
	P99ms      float64 `json:"p99_ms"`
	CPUPerGiB  float64 `json:"cpu_s_per_gib"` // of all three voters and the client
	Entries    int     `json:"entries"`
}

const (
	voters = 3
	// keepBytes is how far a log grows between snapshots; half of it stays behind one.
	keepBytes = 64 << 20
)

// nothing is an FSM without state, and its snapshot.
type nothing struct{}

func (nothing) Apply(*raft.Log) any                  { return nil }
func (nothing) Restore(r io.ReadCloser) error        { return r.Close() }
func (nothing) Snapshot() (raft.FSMSnapshot, error)  { return nothing{}, nil }
func (nothing) Persist(sink raft.SnapshotSink) error { return sink.Close() }
func (nothing) Release()                             {}

type voter struct {
	raft  *raft.Raft
	trans *raft.NetworkTransport
	close func() error
}

// Run starts the voters, loads them, and stops them.
func Run(name string, open Store, l Load) (Result, error) {
	dir, err := os.MkdirTemp(l.Dir, "raftbench-")
	if err != nil {
		return Result{}, err
	}
	defer os.RemoveAll(dir)
	all, err := start(dir, open, l.EntryBytes)
	defer func() {
		for _, v := range all {
			_ = v.raft.Shutdown().Error()
			_ = v.trans.Close()
			_ = v.close()
		}
	}()
	if err != nil {
		return Result{}, err
	}
	lead, err := leader(all)
	if err != nil {
		return Result{}, err
	}
	if _, err := load(lead, l, l.Seconds); err != nil { // warm: some snapshots have been
		return Result{}, err
	}
	cpu, began := cpuSeconds(), time.Now()
	took, err := load(lead, l, l.Seconds)
	if err != nil {
		return Result{}, err
	}
	wall, used := time.Since(began).Seconds(), cpuSeconds()-cpu
	slices.Sort(took)
	bytes := float64(len(took)) * float64(l.EntryBytes)
	at := func(q float64) float64 { return float64(took[int(q*float64(len(took)-1))].Microseconds()) / 1000 }
	return Result{Name: name, EntryBytes: l.EntryBytes, MBPerS: bytes / 1e6 / wall, P50ms: at(0.5), P99ms: at(0.99),
		CPUPerGiB: used / (bytes / (1 << 30)), Entries: len(took)}, nil
}

func start(dir string, open Store, entryBytes int) ([]*voter, error) {
	var servers []raft.Server
	var layers []*layer
	for i := range voters {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		layers = append(layers, &layer{ln})
		servers = append(servers, raft.Server{ID: raft.ServerID(fmt.Sprint(i)),
			Address: raft.ServerAddress(ln.Addr().String())})
	}
	var all []*voter
	for i := range voters {
		sub := filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(sub, 0o700); err != nil {
			return all, err
		}
		logs, closeLogs, err := open(sub)
		if err != nil {
			return all, err
		}
		quiet := hclog.New(&hclog.LoggerOptions{Level: hclog.Off})
		trans := raft.NewNetworkTransportWithConfig(
			&raft.NetworkTransportConfig{Stream: layers[i], MaxPool: 3, MaxRPCsInFlight: 1, Timeout: 10 * time.Second,
				Logger: quiet})
		conf := raft.DefaultConfig()
		conf.LocalID, conf.Logger = servers[i].ID, quiet
		conf.MaxAppendEntries = 16
		conf.SnapshotThreshold, conf.SnapshotInterval = uint64(keepBytes/entryBytes), 100*time.Millisecond
		conf.TrailingLogs = uint64(keepBytes / 2 / entryBytes)
		stable, snaps := raft.NewInmemStore(), raft.NewDiscardSnapshotStore()
		if err := raft.BootstrapCluster(conf, logs, stable, snaps, trans,
			raft.Configuration{Servers: servers}); err != nil {
			return all, err
		}
		r, err := raft.NewRaft(conf, nothing{}, logs, stable, snaps, trans)
		if err != nil {
			return all, err
		}
		all = append(all, &voter{r, trans, closeLogs})
	}
	return all, nil
}

type layer struct{ net.Listener }

func (l *layer) Dial(a raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", string(a), timeout)
}

func leader(all []*voter) (*raft.Raft, error) {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		for _, v := range all {
			if v.raft.State() == raft.Leader && v.raft.VerifyLeader().Error() == nil {
				return v.raft, nil
			}
		}
	}
	return nil, fmt.Errorf("no leader")
}

// load applies entries for a while and returns how long each took.
func load(r *raft.Raft, l Load, seconds float64) ([]time.Duration, error) {
	end := time.Now().Add(time.Duration(seconds * float64(time.Second)))
	var mu sync.Mutex
	var took []time.Duration
	var failed error
	var wg sync.WaitGroup
	for i := range l.InFlight {
		wg.Go(func() {
			data := make([]byte, l.EntryBytes)
			rng := rand.New(rand.NewPCG(uint64(i), 1))
			for k := range data {
				data[k] = byte(rng.Uint32())
			}
			var mine []time.Duration
			var err error
			for err == nil && time.Now().Before(end) {
				t := time.Now()
				err = r.Apply(data, 30*time.Second).Error() // Raft keeps it only until then
				mine = append(mine, time.Since(t))
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
			if err != nil {
				failed = err
			}
		})
	}
	wg.Wait()
	if failed == nil && len(took) == 0 {
		failed = fmt.Errorf("nothing was committed")
	}
	return took, failed
}

func cpuSeconds() float64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}
