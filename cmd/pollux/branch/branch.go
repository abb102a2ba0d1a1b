// Package branch is the verb that lists, serves, compares and removes what a former seat wrote that
// its journal does not have.
package branch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/failback"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/quantity"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/branch"
)

// flags are those of all its subcommands.
type flags struct {
	path     string
	target   string
	patience quantity.Duration
	json     bool
}

// New makes `pollux branch`.
func New() *cobra.Command {
	c := &cobra.Command{Use: "branch",
		Short: "What a former seat wrote that its journal does not have: ls, mount, diff, rm",
		Long: `pollux failback saves such writes as a branch, below the state directory of the host that
made them. All of these run there, with the agent's configuration, beside a standby too.`}
	c.AddCommand(newList(), newMount(), newDiff(), newRemove())
	return c
}

func (f *flags) add(c *cobra.Command, store bool) {
	c.Flags().StringVarP(&f.path, "config", "c", "/etc/pollux/agent.yaml", "the configuration of the host")
	c.Flags().BoolVar(&f.json, "json", false, "print one JSON object and nothing else")
	if store {
		c.Flags().StringVar(&f.target, "store", "", "name or URL of the target whose log is read (default: the "+
			"one that was read for the failback)")
		c.Flags().Var(&f.patience, "patience", "how long to try a store that does not answer")
	}
}

// state is the host's state directory.
func (f *flags) state() (*config.Agent, error) { return config.LoadAgent(f.path) }

// log opens the log over which a branch lies.
func (f *flags) log(ctx context.Context, conf *config.Agent, b *branch.Branch) (*twin.Log, *cli.StoreFlags, func(),
	error) {
	want := f.target
	if want == "" {
		want = b.Successor.Target
	}
	for _, t := range conf.Journal.Targets {
		if t.Name == want || t.URL == want {
			s := cli.StoreOf(t, f.patience)
			l, done, err := cli.OpenLog(ctx, s)
			return l, s, done, err
		}
	}
	return nil, nil, nil, fail.New(fail.NotFound, "find", "target "+want, "there is none in "+f.path).
		WithHint("name one of journal.targets that has the journal's log: --store")
}

// row is a branch as ls shows it.
type row struct {
	*branch.Branch
	Bytes int64  `json:"bytes"` // of the divergent extents
	Path  string `json:"path"`
}

func newList() *cobra.Command {
	var f flags
	c := &cobra.Command{Use: "ls", Short: "List the branches of this host", Args: cobra.NoArgs}
	f.add(c, false)
	c.RunE = func(c *cobra.Command, _ []string) error {
		conf, err := f.state()
		if err != nil {
			return err
		}
		all, err := branch.List(conf.State)
		rows := []row{}
		for _, b := range all {
			r := row{Branch: b, Path: branch.PathOf(conf.State, b.ID)}
			for i := range b.Volumes {
				r.Bytes += b.Volumes[i].Bytes
			}
			rows = append(rows, r)
		}
		if f.json {
			return errors.Join(cli.PrintJSON(c.OutOrStdout(), map[string]any{"branches": rows}), err)
		}
		print(c.OutOrStdout(), rows)
		return err
	}
	return c
}

func print(w io.Writer, rows []row) {
	table := [][]string{{"BRANCH", "JOURNAL", "EPOCH", "VOLUME", "OVER", "BYTES", "WRITTEN"}}
	for _, r := range rows {
		for i := range r.Volumes {
			v := &r.Volumes[i]
			note := "-"
			for _, s := range r.Streams {
				if s.ID == v.Stream && !s.From.IsZero() {
					note = s.From.Format(time.DateTime) + " to " + s.To.Format(time.DateTime)
				}
			}
			if v.Compared {
				note = "not known: what differed"
			}
			table = append(table, []string{r.ID, api.JournalName(r.Journal), fmt.Sprint(r.Epoch), v.Name,
				fmt.Sprintf("LSN %d", r.Base(v).LSN), text.Bytes(v.Bytes), note})
		}
		if len(r.Volumes) == 0 {
			table = append(table, []string{r.ID, api.JournalName(r.Journal), fmt.Sprint(r.Epoch), "-", "-", "0",
				"nothing"})
		}
	}
	text.Table(w, table)
}

func newDiff() *cobra.Command {
	var f flags
	c := &cobra.Command{Use: "diff ID [VOLUME]", Args: cobra.RangeArgs(1, 2),
		Short: "Show what a branch has, and what of it was changed at the new seat, too"}
	f.add(c, true)
	c.RunE = func(c *cobra.Command, args []string) error {
		conf, err := f.state()
		if err != nil {
			return err
		}
		b, err := branch.Load(conf.State, args[0])
		if err != nil {
			return err
		}
		volumes := b.Volumes
		if len(args) > 1 {
			v, err := b.Volume(args[1])
			if err != nil {
				return err
			}
			volumes = []branch.Volume{*v}
		}
		l, _, done, err := f.log(c.Context(), conf, b)
		if err != nil {
			return err
		}
		defer done()
		diffs := []*failback.Diff{}
		for i := range volumes {
			d, err := failback.Differences(c.Context(), l, conf.State, b, &volumes[i])
			if err != nil {
				return err
			}
			diffs = append(diffs, d)
		}
		if f.json {
			return cli.PrintJSON(c.OutOrStdout(), map[string]any{"branch": b.ID, "volumes": diffs})
		}
		rows := [][]string{{"VOLUME", "OVER", "HERE", "EXTENTS", "AT THE SEAT SINCE", "BOTH"}}
		for _, d := range diffs {
			rows = append(rows, []string{d.Volume, fmt.Sprintf("LSN %d", d.BaseLSN), text.Bytes(d.Bytes),
				fmt.Sprint(d.Extents), text.Bytes(d.ChangedBytes), text.Bytes(d.BothBytes)})
		}
		text.Table(c.OutOrStdout(), rows)
		return nil
	}
	return c
}

func newRemove() *cobra.Command {
	var f flags
	var yes, dry bool
	c := &cobra.Command{Use: "rm ID", Short: "Delete a branch for good, and the state of the agent that made it",
		Args: cobra.ExactArgs(1)}
	f.add(c, false)
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.Flags().BoolVar(&dry, "dry-run", false, "show what would be deleted, change nothing")
	c.RunE = func(c *cobra.Command, args []string) error {
		conf, err := f.state()
		if err != nil {
			return err
		}
		id := args[0]
		if err := failback.Remove(conf.State, id, true); err != nil {
			return err
		}
		bytes, err := size(branch.PathOf(conf.State, id))
		if err != nil {
			return err
		}
		if !dry {
			what := fmt.Sprintf("What only this host wrote is deleted for good, and the agent's state: %s in %s",
				text.Bytes(bytes), branch.PathOf(conf.State, id))
			if err := cli.Confirm(c, what, id, yes); err != nil {
				return err
			}
			if err := failback.Remove(conf.State, id, false); err != nil {
				return err
			}
		}
		if f.json {
			return cli.PrintJSON(c.OutOrStdout(), map[string]any{"branch": id, "bytes": bytes, "dry_run": dry})
		}
		if dry {
			fmt.Fprintf(c.OutOrStdout(), "branch %s has %s\n", id, text.Bytes(bytes))
			cli.SayDry(c, dry)
			return nil
		}
		fmt.Fprintf(c.OutOrStdout(), "branch %s is deleted, %s\n", id, text.Bytes(bytes))
		return nil
	}
	return c
}

// size adds up the files below a directory.
func size(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		st, err := e.Info()
		if err == nil {
			n += st.Size()
		}
		return err
	})
	return n, fail.Wrap(fail.Denied, "measure", dir, err)
}
