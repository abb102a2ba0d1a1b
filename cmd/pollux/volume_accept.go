package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/control/api"
)

func newVolumeAccept() *cobra.Command {
	var f cli.DaemonFlags
	var r api.VolumeAccept
	var yes bool
	c := &cobra.Command{Use: "accept VOLUME", Short: "Go on from another backing file or device in the place of a lost or replaced one", Args: cobra.ExactArgs(1),
		Long: `A group is Suspended when the backing of one of its volumes is missing, or is
another file than the one that was attached. When the file or device at its path
holds exactly what the old one held when the agent stopped (a move by a copy), or
the volume's newest point restored from the object store, this verb takes it for
the right one. At its next start the agent applies all that its WAL holds to it,
and the volume goes on under its name, with its history. From an older image this
would make primary and twin differ: for that, use volume rm and volume create.`}
	f.Add(c)
	c.Flags().BoolVar(&r.DryRun, "dry-run", false, "check, change nothing")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.RunE = func(c *cobra.Command, args []string) error {
		r.Name, r.By = args[0], cli.Operator()
		if !r.DryRun {
			if err := cli.Look(c.Context(), &f, api.VerbVolumeAccept, r, func(dry *api.VolumeAccept) { dry.DryRun = true }); err != nil {
				return err
			}
			what := "Volume " + r.Name + " will go on from what is at its backing's path now. That must hold what the old backing held when\n" +
				"the agent stopped, or the newest point of the object store; from an older image the volume would differ from its twin."
			if err := cli.Confirm(c, what, r.Name, yes); err != nil {
				return err
			}
		}
		var v api.Volume
		if err := f.Call(c.Context(), api.VerbVolumeAccept, r, &v); err != nil {
			return err
		}
		if f.JSON {
			return cli.PrintJSON(c.OutOrStdout(), v)
		}
		printVolumes(c, []api.Volume{v})
		cli.SayDry(c, r.DryRun)
		if !r.DryRun {
			fmt.Fprintln(c.ErrOrStderr(), "restart the agent to go on")
		}
		return nil
	}
	return c
}
