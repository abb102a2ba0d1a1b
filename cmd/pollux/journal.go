package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/member"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/text"
)

func newJournal() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use: "journal -c journal.yaml", Short: "Run one member of a journal on this host; init, join, remove, transfer, ls",
		Long: `Runs in the foreground until SIGTERM or SIGINT. Three or five hosts run one member
each; the first one begins the journal with ` + "`pollux journal init`" + `, the others name it
under peers and are let in by themselves. Under systemd it notifies readiness.`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVarP(&path, "config", "c", "/etc/pollux/journal.yaml", "configuration file")
	c.RunE = func(c *cobra.Command, _ []string) error {
		conf, err := config.LoadJournal(path)
		if err != nil {
			return err
		}
		log := cli.NewLogger(conf.Log)
		d, err := member.Start(c.Context(), conf, version, log)
		if err != nil {
			return config.Listening(conf, path, err)
		}
		log.Info("serving", "version", version, "listen", conf.Listen, "control", conf.Socket)
		return cli.RunDaemon(c.Context(), log, d)
	}
	c.AddCommand(
		newMembers("init", "Begin a new journal with this host as its first member", cobra.NoArgs, api.VerbJournalInit,
			func(_ []string, dry bool) any { return api.JournalInit{DryRun: dry, By: cli.Operator()} }),
		newMembers("join ADDRESS", "Join the journal of the member at an address", cobra.ExactArgs(1), api.VerbJournalJoin,
			func(a []string, dry bool) any {
				return api.JournalJoin{Address: a[0], DryRun: dry, By: cli.Operator()}
			}),
		newMembers("transfer [MEMBER]", "Hand the lead over to a member, by id or address, or to any", cobra.MaximumNArgs(1), api.VerbJournalTransfer,
			func(a []string, dry bool) any {
				r := api.JournalTransfer{DryRun: dry, By: cli.Operator()}
				if len(a) > 0 {
					r.Member = a[0]
				}
				return r
			}),
		newMembers("ls", "List the members and where each stands", cobra.NoArgs, api.VerbJournalList, nil),
		newJournalRemove(),
	)
	return c
}

// newMembers is a verb that answers with the members; req is nil for one that only
// looks.
func newMembers(use, short string, args cobra.PositionalArgs, verb string, req func(args []string, dry bool) any) *cobra.Command {
	var f cli.DaemonFlags
	var dry bool
	c := &cobra.Command{Use: use, Short: short, Args: args}
	f.AddFor(c, cli.DefaultJournalSocket)
	if req != nil {
		c.Flags().BoolVar(&dry, "dry-run", false, "show the members, change nothing")
	}
	c.RunE = func(c *cobra.Command, a []string) error {
		var r any = struct{}{}
		if req != nil {
			r = req(a, dry)
		}
		return callMembers(c, &f, verb, r, dry)
	}
	return c
}

func callMembers(c *cobra.Command, f *cli.DaemonFlags, verb string, req any, dry bool) error {
	var m api.JournalMembers
	if err := f.Call(c.Context(), verb, req, &m); err != nil {
		return err
	}
	if f.JSON {
		return cli.PrintJSON(c.OutOrStdout(), m)
	}
	printMembers(c.OutOrStdout(), &m)
	cli.SayDry(c, dry)
	return nil
}

func newJournalRemove() *cobra.Command {
	var f cli.DaemonFlags
	var yes, dry bool
	c := &cobra.Command{Use: "remove MEMBER", Short: "End a membership, by id or address", Args: cobra.ExactArgs(1),
		Long: `The journal goes on without that member, and its id is never let in again: it has to
delete its state directory first. What only it holds is lost.`}
	f.AddFor(c, cli.DefaultJournalSocket)
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.Flags().BoolVar(&dry, "dry-run", false, "show the members, change nothing")
	c.RunE = func(c *cobra.Command, a []string) error {
		if !dry {
			if err := cli.Confirm(c, "Member "+a[0]+" loses its vote, and must delete its state directory to come back.", a[0], yes); err != nil {
				return err
			}
		}
		return callMembers(c, &f, api.VerbJournalRemove, api.JournalRemove{Member: a[0], DryRun: dry, By: cli.Operator()}, dry)
	}
	return c
}

func printMembers(w io.Writer, m *api.JournalMembers) {
	if len(m.Members) == 0 {
		fmt.Fprintln(w, "no journal here yet: run `pollux journal init` on one member, once; the others ask their peers")
		if m.Waiting != "" {
			fmt.Fprintln(w, m.Waiting)
		}
		return
	}
	rows := [][]string{{"ADDRESS", "ROLE", "STATE", "TERM", "LAST", "APPLIED", "LOG", "ID", ""}}
	for _, x := range m.Members {
		note := x.Error
		if x.Self {
			note = "this host"
		}
		rows = append(rows, []string{x.Address, x.Role, x.State, fmt.Sprint(x.Term), fmt.Sprint(x.Last), fmt.Sprint(x.Applied), text.Bytes(x.LogBytes), x.ID, note})
	}
	text.Table(w, rows)
	fmt.Fprintf(w, "\njournal %s\n", m.Journal)
	if m.Leader == "" {
		fmt.Fprintln(w, "no leader is known: is a majority of the members up?")
	}
	if m.Waiting != "" {
		fmt.Fprintln(w, m.Waiting)
	}
}
