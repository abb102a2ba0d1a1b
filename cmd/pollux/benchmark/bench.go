// Package benchmark is the subcommand bench: what protection costs on this machine.
package benchmark

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/bench"
	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/quantity"
)

// version is the build's, for the reports.
var version string

// New is the subcommand bench of a build.
func New(build string) *cobra.Command {
	version = build
	c := &cobra.Command{Use: "bench",
		Short: "Measure what protection costs here: write, lag, restore, failover, catching up, journal",
		Long: `Each benchmark starts what it needs, in temporary directories that it removes
afterwards: agents, an unprotected NBD server, and, without --store, an S3 server.
docs/benchmarks.md says what is measured and how to read it.`}
	c.AddCommand(
		newBenchRun("write", "Throughput of a protected volume beside an unprotected one and nbdkit", 2, bench.Write),
		newBenchRun("lag",
			"Time from a write's acknowledgement to its durability in the store, beside bare PUTs", 30, bench.Lag),
		newBenchRun("restore", "Rate of a restore beside fetching the same objects", 0, bench.Restore),
		newBenchCatchup(), newBenchScale(), newBenchMount(), newBenchFailover(), newBenchJournal(),
		newBenchJournalStore(), newBenchServe())
	return c
}

// texter is a report that people can read.
type texter interface{ Text(w io.Writer) }

func newBenchRun[R texter](name, short string, seconds float64,
	run func(context.Context, bench.Options) (R, error)) *cobra.Command {
	var s cli.StoreFlags
	var o bench.Options
	var json bool
	c := &cobra.Command{Use: name, Short: short, Args: cobra.NoArgs}
	s.Add(c)
	f := c.Flags()
	f.BoolVar(&json, "json", false, "print one JSON object and nothing else")
	if seconds > 0 {
		f.Float64Var(&o.Seconds, "seconds", seconds, "length of one slice or run")
	}
	f.Var(&o.Size, "size", "size of the volume (default 512MiB)")
	f.Var(&o.Memory, "memory", "the agent's memory budget (default 32MiB)")
	f.Uint64Var(&o.Seed, "seed", 1, "seed of offsets and block contents")
	f.StringVar(&o.Data, "data", "", "file tree for block contents (default: the Go toolchain's, else /usr)")
	f.StringVar(&o.Dir, "dir", "", "where to make the temporary directory (default: the system's)")
	if name == "write" {
		f.StringSliceVar(&o.Only, "workload", nil,
			"only these of rand4k-flush1, rand4k-qd16, rand4k-qd16-flush32, seq1m-flush16")
	}
	if name == "restore" {
		f.BoolVar(&o.GC, "gc", false,
			"let a retention of a minute pass before, and collect garbage (takes two minutes more)")
		f.Int64Var(&o.Writes, "writes", 0, "random blocks of 4 KiB written before (default: a quarter of the volume)")
	}
	if name == "failover" {
		f.Int64Var(&o.Writes, "writes", 4096, "random blocks of 64 KiB written before")
	}
	if name == "lag" {
		f.IntVar(&o.Voters, "voters", 0,
			"measure a journal of so many members in processes of their own beside the embedded one")
	}
	if name != "lag" {
		f.IntVar(&o.Rounds, "rounds", 5, "rounds, of which the median counts")
		f.Float64Var(&o.RequestRate, "request-rate", -1,
			"store requests per second: 0 is unlimited, -1 the agent's default")
	}
	c.RunE = func(c *cobra.Command, _ []string) error {
		o.Store, o.StoreOptions, o.Version = s.URL, s.Options, version
		o.Say = func(line string) { fmt.Fprintln(c.ErrOrStderr(), line) }
		r, err := run(c.Context(), o)
		if err != nil {
			if cerr := c.Context().Err(); cerr != nil {
				return cerr
			}
			return err
		}
		if json {
			return cli.PrintJSON(c.OutOrStdout(), r)
		}
		r.Text(c.OutOrStdout())
		return nil
	}
	return c
}

func newBenchCatchup() *cobra.Command {
	link := quantity.Bytes(16 << 20)
	c := newBenchRun("catchup", "Draining a backlog over a slow link, with and without folding", 0,
		func(ctx context.Context, o bench.Options) (*bench.CatchupReport, error) {
			return bench.Catchup(ctx, o, link)
		})
	c.Flags().Var(&link, "link", "bytes per second of the link to the store")
	c.Flags().Lookup("size").Usage = "size of the volume (default 32MiB); eight times as much is written"
	_ = c.Flags().MarkHidden("request-rate")
	return c
}

func newBenchMount() *cobra.Command {
	writes, opens := int64(1000000), 100
	c := newBenchRun("mount", "How soon a mount is there, and how fast it reads once it is warm", 2,
		func(ctx context.Context, o bench.Options) (*bench.MountReport, error) {
			return bench.Mount(ctx, o, writes, opens)
		})
	c.Flags().Int64Var(&writes, "writes", writes, "random blocks of 4 KiB that make the volume")
	c.Flags().IntVar(&opens, "opens", opens, "mounts that are opened")
	c.Flags().Lookup("size").Usage = "size of the volume, which begins as zeros (default 100GiB)"
	_ = c.Flags().MarkHidden("request-rate")
	return c
}

func newBenchFailover() *cobra.Command {
	var rtt quantity.Duration
	c := newBenchRun("failover", "For how long a volume is not served when its journal moves to another site", 3,
		func(ctx context.Context, o bench.Options) (*bench.FailoverReport, error) {
			return bench.Failover(ctx, o, time.Duration(rtt))
		})
	f := c.Flags()
	f.Var(&rtt, "rtt", "what each request of site B to the store, which is at A, waits longer while the journal moves")
	f.Lookup("size").Usage = "size of the volume, which begins as zeros (default 10GiB)"
	f.Lookup("rounds").DefValue = "3"
	_ = f.Lookup("rounds").Value.Set("3")
	_ = f.MarkHidden("request-rate")
	return c
}

func newBenchScale() *cobra.Command {
	groups := 1600
	c := newBenchRun("scale", "What many groups cost, most of them idle", 20,
		func(ctx context.Context, o bench.Options) (*bench.ScaleReport, error) {
			return bench.Scale(ctx, o, groups)
		})
	c.Flags().IntVar(&groups, "groups", groups, "groups, with one volume each; one in twenty is busy")
	return c
}

// newBenchServe is the unprotected server, which the benchmark runs as a child.
func newBenchServe() *cobra.Command {
	var file, socket string
	c := &cobra.Command{Use: "serve --file FILE --socket PATH", Short: "Serve a bare file over NBD",
		Hidden: true, Args: cobra.NoArgs}
	c.Flags().StringVar(&file, "file", "", "file to serve (required)")
	c.Flags().StringVar(&socket, "socket", "", "unix socket to listen on (required)")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if file == "" || socket == "" {
			return fail.New(fail.Invalid, "serve", "", "--file and --socket are both needed")
		}
		return bench.Serve(c.Context(), file, socket)
	}
	return c
}
