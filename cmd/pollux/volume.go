package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/hostdev"
	"github.com/pollux-dr/pollux/internal/quantity"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
)

func newVolume() *cobra.Command {
	c := &cobra.Command{Use: "volume", Short: "Protected volumes: create, ls, changed, accept, rm"}
	c.AddCommand(newVolumeCreate(), newVolumeList(), newVolumeChanged(), newVolumeAccept(), newVolumeRemove())
	return c
}

func newVolumeCreate() *cobra.Command {
	var f cli.DaemonFlags
	var r api.VolumeCreate
	var size quantity.Bytes
	c := &cobra.Command{Use: "create VOLUME --group GROUP", Short: "Protect a new volume, or an existing file or device", Args: cobra.ExactArgs(1),
		Long: `Without --backing, a sparse file of --size is made in the agent's state directory.
With --backing, an existing file or device is protected as it is: what it holds
is put into the log first (initial sync), then the volume is served. The sync goes
on when this command is interrupted; ` + "`pollux volume ls`" + ` then shows when it is ready.`}
	f.Add(c)
	c.Flags().StringVar(&r.Group, "group", "", "consistency group (required)")
	c.Flags().Var(&size, "size", "size, as in 10GiB (default: that of the backing)")
	c.Flags().StringVar(&r.Backing, "backing", "", "file or device that holds the blocks")
	c.Flags().BoolVar(&r.DryRun, "dry-run", false, "check and show, change nothing")
	c.RunE = func(c *cobra.Command, args []string) error {
		if r.Group == "" {
			return fail.New(fail.Invalid, "create volume", args[0], "no group").WithHint("name one with --group; pollux group ls lists them")
		}
		if r.Backing != "" {
			if err := hostdev.CheckPath("create volume", "--backing "+r.Backing, r.Backing); err != nil {
				return err
			}
			abs, err := filepath.Abs(r.Backing)
			if err != nil {
				return fail.Wrap(fail.Invalid, "resolve", r.Backing, err)
			}
			r.Backing = abs
		}
		if c.Flags().Changed("size") {
			if err := quantity.CheckVolume(int64(size)); err != nil {
				return fail.New(fail.Invalid, "create volume "+args[0], "--size", err.Error()).WithHint("write a size such as 10GiB, or leave --size out for that of the backing")
			}
		}
		r.Name, r.SizeBytes, r.By = args[0], int64(size), cli.Operator()
		var v api.Volume
		if err := f.Call(c.Context(), api.VerbVolumeCreate, r, &v); err != nil {
			return err
		}
		if f.JSON {
			return cli.PrintJSON(c.OutOrStdout(), v)
		}
		printVolumes(c, []api.Volume{v})
		cli.SayDry(c, r.DryRun)
		return nil
	}
	return c
}

func printVolumes(c *cobra.Command, vols []api.Volume) {
	rows := [][]string{{"VOLUME", "GROUP", "AGENT", "SIZE", "READY", "BACKING", "NBD"}}
	for _, v := range vols {
		rows = append(rows, []string{v.Name, v.Group, v.Agent, quantity.Bytes(v.SizeBytes).String(), v.State(), v.Backing, v.NBD})
	}
	text.Table(c.OutOrStdout(), rows)
}

func newVolumeList() *cobra.Command {
	var f cli.DaemonFlags
	var s cli.StoreFlags
	c := &cobra.Command{Use: "ls [--store URL]", Short: "List the volumes of the agent, or of an object store", Args: cobra.NoArgs}
	f.Add(c)
	s.Add(c)
	s.AddCache(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if s.URL != "" {
			return listStoreVolumes(c, &f, &s)
		}
		var vols []api.Volume
		if err := f.Call(c.Context(), api.VerbVolumeList, api.List{}, &vols); err != nil {
			return err
		}
		if f.JSON {
			return cli.PrintJSON(c.OutOrStdout(), map[string]any{"volumes": vols})
		}
		printVolumes(c, vols)
		return nil
	}
	return c
}

// storeVolume is what a bucket holds of a volume.
type storeVolume struct {
	Name       string    `json:"name"`
	Group      string    `json:"group"`
	SizeBytes  int64     `json:"size_bytes"`
	Ready      bool      `json:"ready"`
	Removed    bool      `json:"removed"`
	FirstLSN   uint64    `json:"first_lsn"`
	FirstTime  time.Time `json:"first_time"`
	LastLSN    uint64    `json:"last_lsn"`
	LastTime   time.Time `json:"last_time"`
	AgeSeconds float64   `json:"age_seconds"`
	Epoch      uint64    `json:"epoch"`
}

func listStoreVolumes(c *cobra.Command, f *cli.DaemonFlags, s *cli.StoreFlags) error {
	l, closeStore, err := cli.OpenLog(c.Context(), s)
	if err != nil {
		return err
	}
	defer closeStore()
	vols, volumes := []storeVolume{}, state.Sorted(l.State.Volumes, func(v *state.Volume) string { return v.Name })
	for _, v := range volumes {
		vols = append(vols, describe(c.Context(), l, v))
	}
	if f.JSON {
		err := cli.PrintJSON(c.OutOrStdout(), map[string]any{"store": s.URL, "journal": l.Identity.Journal, "objects": l.End, "log_bytes": l.Bytes,
			"volumes": vols, "damage": cli.DamageText(l, volumes...)})
		return errors.Join(err, cli.ErrListed(l, volumes...))
	}
	rows := [][]string{{"VOLUME", "GROUP", "SIZE", "FIRST LSN", "FIRST POINT", "LAST LSN", "LAST POINT", "AGE", "STATE"}}
	for _, v := range vols {
		st := "ready"
		if v.Removed {
			st = "removed"
		} else if !v.Ready {
			st = "initializing"
		}
		rows = append(rows, []string{v.Name, v.Group, quantity.Bytes(v.SizeBytes).String(), fmt.Sprint(v.FirstLSN), v.FirstTime.Format(time.RFC3339),
			fmt.Sprint(v.LastLSN), v.LastTime.Format(time.RFC3339), text.Duration(time.Duration(v.AgeSeconds * 1e9)), st})
	}
	text.Table(c.OutOrStdout(), rows)
	return cli.ErrListed(l, volumes...)
}

func describe(ctx context.Context, l *twin.Log, v *state.Volume) storeVolume {
	out := storeVolume{Name: v.Name, Group: v.Group, SizeBytes: v.SizeBytes, Ready: v.Ready, Removed: v.Removed,
		FirstLSN: l.FirstPoint(ctx, v), FirstTime: v.Created, LastTime: v.Created, Epoch: l.Epoch}
	if r, ok := l.RangeOf(v.Stream); ok {
		out.LastLSN, out.LastTime = r.LastLSN, r.LastTime.UTC()
		if r.FirstTime.After(v.Created) {
			out.FirstTime = r.FirstTime.UTC()
		}
	}
	out.AgeSeconds = time.Since(out.LastTime).Seconds()
	return out
}

func newVolumeRemove() *cobra.Command {
	var f cli.DaemonFlags
	var r api.VolumeRemove
	var yes bool
	c := &cobra.Command{Use: "rm VOLUME", Short: "End a volume's protection; its backing and its history stay", Args: cobra.ExactArgs(1)}
	f.Add(c)
	c.Flags().BoolVar(&r.DryRun, "dry-run", false, "show, change nothing")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.RunE = func(c *cobra.Command, args []string) error {
		r.Name, r.By = args[0], cli.Operator()
		if !r.DryRun {
			if err := cli.Look(c.Context(), &f, api.VerbVolumeRemove, r, func(dry *api.VolumeRemove) { dry.DryRun = true }); err != nil {
				return err
			}
			what := "This ends the protection of volume " + r.Name + " and disconnects its clients. Backing and history stay."
			if err := cli.Confirm(c, what, r.Name, yes); err != nil {
				return err
			}
		}
		var v api.Volume
		if err := f.Call(c.Context(), api.VerbVolumeRemove, r, &v); err != nil {
			return err
		}
		if f.JSON {
			return cli.PrintJSON(c.OutOrStdout(), v)
		}
		printVolumes(c, []api.Volume{v})
		cli.SayDry(c, r.DryRun)
		return nil
	}
	return c
}
