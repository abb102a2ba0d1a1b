package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/hostdev"
	"github.com/pollux-dr/pollux/internal/quantity"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/twin/image"
)

type cloneFlags struct {
	restoreFlags
	agent   cli.DaemonFlags
	group   string
	backing string
}

// cloneReport is what `pollux clone --json` prints.
type cloneReport struct {
	Source string      `json:"source"`
	LSN    uint64      `json:"lsn,omitempty"` // of a volume's point
	Copied int64       `json:"copied_bytes"`
	Volume *api.Volume `json:"volume"`
	size   int64
}

func newClone() *cobra.Command {
	var f cloneFlags
	c := &cobra.Command{Use: "clone VOLUME|NBD-URI NEW --group GROUP --backing FILE [--store URL] [--at POINT]", Short: "Make a volume of its own of a recovery point, or of a writable mount",
		Long: `Writes the point of VOLUME, from the object store, to FILE, and protects that as the
volume NEW of GROUP: from then on it has a history and a twin of its own, and the
old one is as it was. Given the URI of a running pollux mount in place of VOLUME,
what the mount holds is copied, with what was written to it; nothing must write
to it meanwhile. It runs on the agent's host. What an interruption leaves is gone
on from by the same command.`,
		Args: cobra.ExactArgs(2)}
	f.store.Add(c)
	f.agent.Add(c)
	f.store.AddPoint(c, &f.at)
	c.Flags().StringVar(&f.group, "group", "", "consistency group of the new volume (required)")
	c.Flags().StringVar(&f.backing, "backing", "", "new file for the volume (required)")
	c.Flags().Var(&f.limit, "limit", "read no more than this from the store each second, as in 50MiB")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "check and show, change nothing")
	c.RunE = func(c *cobra.Command, args []string) error {
		if f.group == "" || f.backing == "" {
			return fail.New(fail.Invalid, "clone", args[0], "--group and --backing are both needed").WithHint("name the new volume's group, and a file for it that does not exist yet")
		}
		if isURI(args[0]) && (f.at != "" || f.store.URL != "") {
			return fail.New(fail.Invalid, "clone", args[0], "--at and --store are for a volume: a mount is copied as it is").WithHint("mount the point that you want, or name the volume")
		}
		if err := hostdev.CheckImage("clone", "--backing "+f.backing, f.backing); err != nil {
			return err
		}
		var err error
		if f.backing, err = filepath.Abs(f.backing); err != nil {
			return fail.Wrap(fail.Invalid, "resolve", f.backing, err)
		}
		f.json, f.out = f.agent.JSON, f.backing
		return clone(c, &f, args[0], args[1])
	}
	return c
}

func clone(c *cobra.Command, f *cloneFlags, source, name string) error {
	// The agent says no before the work, not behind it.
	create := api.VolumeCreate{Name: name, Group: f.group, Backing: f.backing, By: cli.Operator(), DryRun: true, SizeBytes: quantity.MinVolume}
	var v api.Volume
	if _, err := os.Stat(f.backing); err == nil {
		create.SizeBytes = 0
	}
	if err := f.agent.Call(c.Context(), api.VerbVolumeCreate, create, &v); err != nil {
		return err
	}
	rep := cloneReport{Source: source, Volume: &v}
	var err error
	if isURI(source) {
		err = f.copyMount(c, source, &rep)
	} else {
		err = f.restorePoint(c, source, &rep)
	}
	if err != nil {
		return err
	}
	if !f.dryRun {
		create.DryRun, create.SizeBytes = false, 0
		if err := f.agent.Call(c.Context(), api.VerbVolumeCreate, create, &v); err != nil {
			return fmt.Errorf("%w; the copy is in %s, and pollux volume create %s --group %s --backing %s protects it", err, f.backing, name, f.group, f.backing)
		}
	} else {
		v.SizeBytes = rep.size
	}
	if f.json {
		return cli.PrintJSON(c.OutOrStdout(), rep)
	}
	if f.dryRun {
		_, err = fmt.Fprintf(c.OutOrStdout(), "would copy %s of %s to %s and protect it as volume %s of group %s\n", text.Bytes(rep.Copied), source, f.backing, name, f.group)
		return err
	}
	fmt.Fprintf(c.OutOrStdout(), "copied %s of %s\n", text.Bytes(rep.Copied), source)
	printVolumes(c, []api.Volume{v})
	return nil
}

func isURI(source string) bool {
	return strings.HasPrefix(source, "nbd") && strings.Contains(source, "://")
}

// restorePoint writes a point from the store to the backing.
func (f *cloneFlags) restorePoint(c *cobra.Command, source string, rep *cloneReport) error {
	l, closeStore, err := cli.OpenLog(c.Context(), &f.store)
	if err != nil {
		return err
	}
	defer closeStore()
	p, err := l.PointOf(c.Context(), source, f.at)
	if err != nil {
		return err
	}
	t, err := image.Inspect(f.backing, p.Volume.SizeBytes)
	if err != nil {
		return err
	}
	if err := t.Refused(false); err != nil {
		return err
	}
	r, err := image.Restore(c.Context(), l, p, t, f.options(c))
	if err != nil {
		return err
	}
	rep.LSN, rep.Copied, rep.size = p.LSN, r.WrittenBytes, p.Volume.SizeBytes
	if f.dryRun {
		rep.Copied = r.LiveBytes
	}
	return nil
}

// copyMount copies what a running mount holds.
func (f *cloneFlags) copyMount(c *cobra.Command, uri string, rep *cloneReport) error {
	conn, err := cli.DialNBD(c.Context(), uri)
	if err != nil {
		return err
	}
	defer conn.Close()
	rep.Copied, rep.size = conn.Size(), conn.Size()
	t, err := image.Inspect(f.backing, conn.Size())
	if err == nil {
		err = t.Refused(false)
	}
	if err != nil || f.dryRun {
		return err
	}
	rep.Copied, err = t.Copy(c.Context(), conn.ReadAt, f.options(c))
	return err
}
