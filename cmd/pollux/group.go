package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/state"
)

func newGroup() *cobra.Command {
	c := &cobra.Command{Use: "group", Short: "Consistency groups: create, set, ls, pause, resume, wait"}
	c.AddCommand(newGroupPut("create", "Create a consistency group", true), newGroupPut("set", "Change a group's settings", false),
		newGroupPause("pause", "Stop replicating a group; its writes collect in the WAL", true),
		newGroupPause("resume", "Go on replicating a paused group", false), newGroupWait(), newGroupList())
	return c
}

func newGroupPut(verb, short string, create bool) *cobra.Command {
	var f cli.DaemonFlags
	var ack, onLoss, overflow, pitr, retention string
	rpo := cli.SecondsFlag(0)
	def := func(string) string { return "" } // what is not set stays as it is
	if create {
		rpo, def = 10, func(v string) string { return v }
	}
	var dryRun, yes bool
	var agents []string
	c := &cobra.Command{Use: verb + " GROUP", Short: short, Args: cobra.ExactArgs(1)}
	f.Add(c)
	c.Flags().StringVar(&ack, "ack", def("local"), "what FLUSH waits for: local, journal (three voters or more) or remote")
	c.Flags().StringVar(&onLoss, "on-ack-loss", def("wait"), "what a promise that cannot be kept does: wait or degrade")
	c.Flags().StringVar(&overflow, "overflow", def("throttle"), "what a full WAL does: throttle (writers are slowed, then wait), or bitmap (only which blocks changed is kept; needs ack: local and a journal on other hosts)")
	c.Flags().StringVar(&pitr, "pitr", def("fold"), "which points stay when replication is behind: every-write, or fold: fewer, to catch up sooner")
	c.Flags().StringVar(&retention, "retention", def("forever"), "which points are kept, as in every_write=24h,hourly=7d,daily=90d, beside bookmarks; pollux gc deletes the rest")
	c.Flags().Var(&rpo, "rpo-target", "lag above which the group is Lagging, as in 30s")
	c.Flags().StringSliceVar(&agents, "agents", nil, "agents on other hosts that may have volumes in it")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "check and show, change nothing")
	c.Flags().BoolVar(&yes, "yes", false, "with --retention: do not ask")
	c.RunE = func(c *cobra.Command, args []string) error {
		r := api.GroupPut{Name: args[0], Create: create, DryRun: dryRun, By: cli.Operator()}
		set := func(flag string, p **string, v *string) {
			if c.Flags().Changed(flag) {
				*p = v
			}
		}
		set("ack", &r.Ack, &ack)
		set("on-ack-loss", &r.OnAckLoss, &onLoss)
		set("overflow", &r.Overflow, &overflow)
		set("pitr", &r.PITR, &pitr)
		set("retention", &r.Retention, &retention)
		if c.Flags().Changed("agents") {
			r.Agents = &agents
		}
		if c.Flags().Changed("rpo-target") {
			seconds := float64(rpo)
			r.RPOTargetSeconds = &seconds
		}
		if !create && r.Ack == nil && r.OnAckLoss == nil && r.Overflow == nil && r.PITR == nil && r.Retention == nil && r.RPOTargetSeconds == nil && r.Agents == nil {
			return fail.New(fail.Invalid, "set group", args[0], "nothing to set").WithHint("see pollux group set --help")
		}
		if r.Retention != nil {
			if _, err := state.ParseRetention(retention); err != nil {
				return err
			}
		}
		if !create && r.Retention != nil && retention != "forever" && !dryRun {
			if err := cli.Look(c.Context(), &f, api.VerbGroupPut, r, func(dry *api.GroupPut) { dry.DryRun = true }); err != nil {
				return err
			}
			if err := cli.Confirm(c, "Points of group "+args[0]+" that "+retention+" does not keep will be deleted by pollux gc, all but bookmarks.", args[0], yes); err != nil {
				return err
			}
		}
		return groupPut(c, &f, r)
	}
	return c
}

func groupPut(c *cobra.Command, f *cli.DaemonFlags, r api.GroupPut) error {
	var g api.Group
	if err := f.Call(c.Context(), api.VerbGroupPut, r, &g); err != nil {
		return err
	}
	if f.JSON {
		return cli.PrintJSON(c.OutOrStdout(), g)
	}
	printGroups(c, []api.Group{g})
	cli.SayDry(c, r.DryRun)
	return nil
}

func newGroupPause(verb, short string, paused bool) *cobra.Command {
	var f cli.DaemonFlags
	var dryRun bool
	c := &cobra.Command{Use: verb + " GROUP", Short: short, Args: cobra.ExactArgs(1)}
	f.Add(c)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "check and show, change nothing")
	c.RunE = func(c *cobra.Command, args []string) error {
		return groupPut(c, &f, api.GroupPut{Name: args[0], Paused: &paused, DryRun: dryRun, By: cli.Operator()})
	}
	return c
}

func newGroupList() *cobra.Command {
	var f cli.DaemonFlags
	c := &cobra.Command{Use: "ls", Short: "List the groups", Args: cobra.NoArgs}
	f.Add(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		var groups []api.Group
		if err := f.Call(c.Context(), api.VerbGroupList, api.List{}, &groups); err != nil {
			return err
		}
		if f.JSON {
			return cli.PrintJSON(c.OutOrStdout(), map[string]any{"groups": groups})
		}
		printGroups(c, groups)
		return nil
	}
	return c
}

func printGroups(c *cobra.Command, groups []api.Group) {
	rows := [][]string{{"GROUP", "ACK", "OVERFLOW", "PITR", "RETENTION", "RPO TARGET", "PAUSED", "VOLUMES", "AGENTS"}}
	for _, g := range groups {
		ack := g.Ack
		if g.OnAckLoss == "degrade" {
			ack += ", may degrade"
		}
		rows = append(rows, []string{g.Name, ack, g.Overflow, g.PITR, g.Retention, fmt.Sprintf("%g s", g.RPOTargetSeconds), fmt.Sprint(g.Paused), fmt.Sprint(g.Volumes),
			strings.Join(append([]string{cmp.Or(g.Owner, "any")}, g.Agents...), " ")})
	}
	text.Table(c.OutOrStdout(), rows)
}
