package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/control/recovery"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/quantity"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/twin"
)

type recoverFlags struct {
	store     cli.StoreFlags
	path      string
	overwrite bool
	yes       bool
	dryRun    bool
	json      bool
}

func newRecover() *cobra.Command {
	var r recoverFlags
	c := &cobra.Command{Use: "recover -c agent.yaml --store URL",
		Short: "Rebuild a lost host, or one that lost its WAL, from journal and object store",
		Long: `For a host whose journal runs elsewhere. It takes the leases of the agent of that
name, so that what is left of the old host can write nothing more; waits until the
store holds all that the journal has; restores every volume to just that point; and
writes the agent's state. Then start the agent: its groups go on with the same log.
What the journal never got (with ack: local) is lost with the host.`,
		Args: cobra.NoArgs}
	r.store.Add(c)
	r.store.AddCache(c)
	f := c.Flags()
	f.StringVarP(&r.path, "config", "c", "/etc/pollux/agent.yaml", "the agent's configuration")
	f.BoolVar(&r.overwrite, "overwrite", false, "restore even where a backing is there already")
	f.BoolVar(&r.yes, "yes", false, "do not ask")
	f.BoolVar(&r.dryRun, "dry-run", false, "show what would be rebuilt, change nothing")
	f.BoolVar(&r.json, "json", false, "print one JSON object and nothing else")
	c.RunE = func(c *cobra.Command, _ []string) error { return r.run(c) }
	return c
}

func (r *recoverFlags) run(c *cobra.Command) error {
	conf, err := config.LoadAgent(r.path)
	if err != nil {
		return err
	}
	rep, err := recovery.Run(c.Context(), recovery.Options{Conf: conf, Path: r.path,
		Overwrite: r.overwrite, DryRun: r.dryRun,
		OpenLog: func(ctx context.Context) (*twin.Log, func(), error) { return cli.OpenLog(ctx, &r.store) },
		Confirm: func(what, name string) error { return cli.Confirm(c, what, name, r.yes) },
		Tell:    func(text string) { fmt.Fprintln(c.ErrOrStderr(), "pollux:", text) },
		Stage:   cli.Stages(c.ErrOrStderr()), Logger: cli.NewLogger(config.Log{Level: "error", Format: "text"})})
	if err != nil {
		return err
	}
	return r.report(c, rep)
}

func (r *recoverFlags) report(c *cobra.Command, rep *recovery.Report) error {
	if r.json {
		return cli.PrintJSON(c.OutOrStdout(), rep)
	}
	w := c.OutOrStdout()
	rows := [][]string{{"VOLUME", "GROUP", "SIZE", "LSN", "BACKING", "WAS"}}
	for _, v := range rep.Volumes {
		rows = append(rows,
			[]string{v.Name, v.Group, quantity.Bytes(v.Size).String(), fmt.Sprint(v.LSN), v.Backing, v.Target})
	}
	text.Table(w, rows)
	for _, name := range rep.Skipped {
		fmt.Fprintf(w, "volume %s was never complete in the store: remove it and create it anew\n", name)
	}
	if r.dryRun {
		if rep.BehindBytes > 0 {
			fmt.Fprintf(w, "the store lacks %s that the journal has: they are waited for, "+
				"and the LSNs will be higher\n", text.Bytes(rep.BehindBytes))
		}
		fmt.Fprintln(w, "nothing was changed")
		return nil
	}
	fmt.Fprintf(w, "agent %s is rebuilt, in %s; start it now\n", rep.Agent,
		text.Duration(time.Duration(rep.Seconds*1e9)))
	return nil
}
