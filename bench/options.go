package bench

import (
	"os"
	"slices"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/quantity"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// Options are those of every benchmark. Zero values take the defaults given,
// which differ between benchmarks where two are named.
type Options struct {
	// Store is file:///directory or s3://bucket/prefix; a fresh prefix below it
	// is used and emptied afterwards. Empty starts an S3 server.
	Store        string
	StoreOptions objstore.Options

	Seconds float64        // of one slice of write (2), of one run of lag (30)
	Size    quantity.Bytes // of the volume; 512MiB
	Memory  quantity.Bytes // the agent's memory budget; 32MiB
	Seed    uint64         // of offsets and block contents; 1
	Rounds  int            // of write and restore; 5
	Only    []string       // workloads of write; all
	Voters  int            // of a journal beside, for lag; 0: none
	Data    string         // file tree for block contents; the Go toolchain's, else /usr
	Dir     string         // where the temporary directory goes; the system's
	// RequestRate is the agent's budget of store requests per second in write
	// and restore: 0 is unlimited, negative (not the zero value) the product's
	// default.
	RequestRate float64

	// Program is the pollux binary; default this process's own.
	Program string
	Version string
	// Writes is how many random blocks are written before a restore; 0 is a quarter of
	// the volume.
	Writes int64
	sparse bool // volumes begin as zeros
	// GC gives the group a retention of a minute before a restore, and lets it pass: what
	// history is left of is what garbage collection has moved together.
	GC bool
	// Say hears what is going on, a line at a time. It may be nil.
	Say func(string)
}

const (
	defaultSize   = 512 << 20
	defaultMemory = 32 << 20
	minSize       = 16 << 20
	minMemory     = 4 << 20
	maxSeconds    = 3600
)

func (o *Options) complete(seconds float64) error {
	if o.Seconds == 0 {
		o.Seconds = seconds
	}
	if o.Size == 0 {
		o.Size = defaultSize
	}
	if o.Memory == 0 {
		o.Memory = defaultMemory
	}
	if o.Rounds == 0 {
		o.Rounds = 5
	}
	if o.Seed == 0 {
		o.Seed = 1
	}
	if o.Dir == "" {
		o.Dir = os.TempDir()
	}
	if o.Say == nil {
		o.Say = func(string) {}
	}
	if o.Program == "" {
		var err error
		if o.Program, err = os.Executable(); err != nil {
			return fail.Wrap(fail.Internal, "find", "own program", err)
		}
	}
	return o.check()
}

func (o *Options) check() error {
	bad := func(flag, why string) error {
		return fail.New(fail.Invalid, "benchmark", "--"+flag, why)
	}
	switch {
	case !(o.Seconds > 0 && o.Seconds <= maxSeconds):
		return bad("seconds", "more than 0, at most 3600")
	case o.Size < minSize || o.Size%segmentBytes != 0:
		return bad("size", "at least 16MiB, a multiple of 1MiB")
	case o.Memory < minMemory:
		return bad("memory", "at least 4MiB")
	case o.Rounds < 1 || o.Rounds > 1000:
		return bad("rounds", "1 to 1000")
	}
	for _, name := range o.Only {
		if !slices.ContainsFunc(cells, func(c cell) bool { return c.name == name }) {
			return bad("workload", name+": there is no such workload")
		}
	}
	return nil
}

// rate is RequestRate for people.
func (o *Options) rate() any {
	switch {
	case o.RequestRate < 0:
		return "default"
	case o.RequestRate == 0:
		return "unlimited"
	}
	return o.RequestRate
}

func (o *Options) slice() time.Duration { return time.Duration(o.Seconds * float64(time.Second)) }

// memoryBudgets is all that the daemon may hold in memory between a client's
// write and the store: a run that moves less could be absorbed instead of
// replicated.
func (o *Options) memoryBudgets() int64 {
	const uploads = (4 + 1) * 8 << 20 // the uploader's objects on their way, and the one that collects
	return int64(o.Memory) + int64(o.Memory)/2 + uploads
}
