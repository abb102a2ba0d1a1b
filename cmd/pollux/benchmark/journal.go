package benchmark

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/bench"
	"github.com/pollux-dr/pollux/bench/raftbench"
	"github.com/pollux-dr/pollux/cmd/pollux/cli"
)

func newBenchJournal() *cobra.Command {
	var o bench.JournalOptions
	var asJSON bool
	c := &cobra.Command{Use: "journal",
		Short: "Raft on Pollux's log store beside other stores: three voters, real fsync", Args: cobra.NoArgs,
		Long: `In a source checkout it builds the nested module bench/peers and measures raft-wal and
raft-boltdb in the same run; an installed binary measures Pollux alone and says so.
The in-memory store shows what Raft itself costs.`}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object and nothing else")
	c.Flags().Float64Var(&o.Seconds, "seconds", 3, "length of one run")
	c.Flags().IntVar(&o.Rounds, "rounds", 5, "rounds, of which the median counts")
	c.Flags().StringVar(&o.Dir, "dir", "", "where to make the temporary directory (default: the system's)")
	c.RunE = func(c *cobra.Command, _ []string) error {
		var err error
		if o.Program, err = os.Executable(); err != nil {
			return err
		}
		o.Version = version
		o.Say = func(line string) { fmt.Fprintln(c.ErrOrStderr(), line) }
		r, err := bench.Journal(c.Context(), o)
		if err != nil {
			if cerr := c.Context().Err(); cerr != nil {
				return cerr
			}
			return err
		}
		if asJSON {
			return cli.PrintJSON(c.OutOrStdout(), r)
		}
		r.Text(c.OutOrStdout())
		return nil
	}
	return c
}

// newBenchJournalStore is one run of one store, which the benchmark has as a child.
func newBenchJournalStore() *cobra.Command {
	var l raftbench.Load
	var store string
	c := &cobra.Command{Use: "journal-store --store NAME", Short: "Measure one log store",
		Hidden: true, Args: cobra.NoArgs}
	c.Flags().StringVar(&store, "store", "pollux", "pollux or in-memory")
	c.Flags().StringVar(&l.Dir, "dir", "", "where to make the temporary directory")
	c.Flags().IntVar(&l.EntryBytes, "entry-bytes", 64<<10, "size of an entry")
	c.Flags().IntVar(&l.InFlight, "in-flight", 16, "entries at once")
	c.Flags().Float64Var(&l.Seconds, "seconds", 3, "length of the run")
	c.RunE = func(c *cobra.Command, _ []string) error {
		r, err := bench.JournalStore(store, l)
		if err != nil {
			return err
		}
		return json.NewEncoder(c.OutOrStdout()).Encode(r)
	}
	return c
}
