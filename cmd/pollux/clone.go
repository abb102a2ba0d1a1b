package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/internal/control"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/hostdev"
	"github.com/pollux-dr/pollux/internal/nbdclient"
	"github.com/pollux-dr/pollux/internal/quantity"
	"github.com/pollux-dr/pollux/internal/text"
)

type cloneFlags struct {
	restoreFlags
	agent   daemonFlags
	group   string
	backing string
}

// cloneReport is what `pollux clone --json` prints.
type cloneReport struct {
	Source string          `json:"source"`
	LSN    uint64          `json:"lsn,omitempty"` // of a volume's point
	Copied int64           `json:"copied_bytes"`
	Volume *control.Volume `json:"volume"`
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
	f.store.add(c)
	f.agent.add(c)
	f.store.addPoint(c, &f.at)
	c.Flags().StringVar(&f.group, "group", "", "consistency group of the new volume (required)")
	c.Flags().StringVar(&f.backing, "backing", "", "new file for the volume (required)")
	c.Flags().Var(&f.limit, "limit", "read no more than this from the store each second, as in 50MiB")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "check and show, change nothing")
	c.RunE = func(c *cobra.Command, args []string) error {
		if f.group == "" || f.backing == "" {
			return fail.New(fail.Invalid, "clone", args[0], "--group and --backing are both needed").WithHint("name the new volume's group, and a file for it that does not exist yet")
		}
		if isURI(args[0]) && (f.at != "" || f.store.url != "") {
			return fail.New(fail.Invalid, "clone", args[0], "--at and --store are for a volume: a mount is copied as it is").WithHint("mount the point that you want, or name the volume")
		}
		if err := hostdev.CheckImage("clone", "--backing "+f.backing, f.backing); err != nil {
			return err
		}
		var err error
		if f.backing, err = filepath.Abs(f.backing); err != nil {
			return fail.Wrap(fail.Invalid, "resolve", f.backing, err)
		}
		f.json, f.out = f.agent.json, f.backing
		return clone(c, &f, args[0], args[1])
	}
	return c
}

func clone(c *cobra.Command, f *cloneFlags, source, name string) error {
	// The agent says no before the work, not behind it.
	create := control.VolumeCreate{Name: name, Group: f.group, Backing: f.backing, By: operator(), DryRun: true, SizeBytes: quantity.MinVolume}
	var v control.Volume
	if _, err := os.Stat(f.backing); err == nil {
		create.SizeBytes = 0
	}
	if err := f.agent.call(c.Context(), control.VerbVolumeCreate, create, &v); err != nil {
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
		if err := f.agent.call(c.Context(), control.VerbVolumeCreate, create, &v); err != nil {
			return fmt.Errorf("%w; the copy is in %s, and pollux volume create %s --group %s --backing %s protects it", err, f.backing, name, f.group, f.backing)
		}
	} else {
		v.SizeBytes = rep.size
	}
	if f.json {
		return printJSON(c.OutOrStdout(), rep)
	}
	if f.dryRun {
		_, err = fmt.Fprintf(c.OutOrStdout(), "would copy %s of %s to %s and protect it as volume %s of group %s\n", text.Bytes(rep.Copied), source, f.backing, name, f.group)
		return err
	}
	fmt.Fprintf(c.OutOrStdout(), "copied %s of %s\n", text.Bytes(rep.Copied), source)
	printVolumes(c, []control.Volume{v})
	return nil
}

func isURI(source string) bool {
	return strings.HasPrefix(source, "nbd") && strings.Contains(source, "://")
}

// restorePoint writes a point from the store to the backing.
func (f *cloneFlags) restorePoint(c *cobra.Command, source string, rep *cloneReport) error {
	l, closeStore, err := openLog(c.Context(), &f.store)
	if err != nil {
		return err
	}
	defer closeStore()
	p, err := pointOf(c.Context(), l, source, f.at)
	if err != nil {
		return err
	}
	t, err := inspectTarget(f.backing, p.Volume.SizeBytes)
	if err != nil {
		return err
	}
	j := &restoreJob{p, t, nil}
	if err := t.refused(false); err != nil {
		return err
	}
	r, err := j.run(c, &f.restoreFlags, l)
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
	conn, err := dialNBD(c.Context(), uri)
	if err != nil {
		return err
	}
	defer conn.Close()
	rep.Copied, rep.size = conn.Size(), conn.Size()
	t, err := inspectTarget(f.backing, conn.Size())
	if err == nil {
		err = t.refused(false)
	}
	if err != nil || f.dryRun {
		return err
	}
	if err := t.open(false, nil); err != nil {
		return err
	}
	bar := newProgress(c.ErrOrStderr(), "copying")
	rep.Copied, err = copyData(c.Context(), conn, t.file, bar.update)
	bar.end()
	if err != nil {
		return errors.Join(err, t.file.Close(), os.Remove(t.partial()))
	}
	return t.finish()
}

// copyData copies all that is not zeros.
func copyData(ctx context.Context, conn *nbdclient.Conn, out *os.File, progress func(done, total int64)) (copied int64, err error) {
	size := conn.Size()
	b, none := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(b)) {
		p := b[:min(int64(len(b)), size-off)]
		if err := conn.ReadAt(ctx, p, off); err != nil {
			return copied, err
		}
		if !bytes.Equal(p, none[:len(p)]) {
			if _, err := out.WriteAt(p, off); err != nil {
				return copied, fail.Wrap(fail.Full, "write", out.Name(), err)
			}
			copied += int64(len(p))
		}
		progress(off+int64(len(p)), size)
	}
	return copied, nil
}
