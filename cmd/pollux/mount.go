package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbd"
	"github.com/pollux-dr/pollux/internal/quantity"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/mount"
)

type mountFlags struct {
	store             cli.StoreFlags
	at, socket, cache string
	cacheBytes, limit quantity.Bytes
	memory            quantity.Bytes
	writable, hydrate bool
	json              bool
}

func newMount() *cobra.Command {
	f := mountFlags{memory: mount.DefaultMemoryBytes}
	c := &cobra.Command{Use: "mount VOLUME --store URL [--at POINT] [--writable]", Short: "Serve a volume at a recovery point over NBD at once, from the object store alone",
		Long: `What is read comes from the store on demand, and is kept in a local file of at
most --cache-size. With --writable, what is written stays in that file too; it
goes nowhere else, and is gone when the mount ends. Any number of mounts, at any
points, run beside each other and beside replication. --hydrate brings the rest
here in the background, until the store is not needed any more.

POINT is as in pollux restore. The command runs until it is interrupted; connect
with nbd-client, nbdfuse, qemu-img or anything else that speaks NBD.`,
		Args: cobra.ExactArgs(1)}
	f.store.Add(c)
	f.store.AddPoint(c, &f.at)
	c.Flags().StringVar(&f.socket, "nbd", "", "unix socket to listen on (default: one in the directory for temporary files)")
	c.Flags().StringVar(&f.cache, "cache", "", "directory of the local file (default: the one for temporary files)")
	c.Flags().Var(&f.cacheBytes, "cache-size", "how much of what was read is kept (default 1GiB); --hydrate keeps all")
	c.Flags().Var(&f.memory, "memory", "what the mount takes of memory, about, 64MiB at least")
	c.Flags().Var(&f.limit, "limit", "with --hydrate: read no more than this each second in the background, as in 50MiB")
	c.Flags().BoolVar(&f.writable, "writable", false, "take writes; they are gone when the mount ends")
	c.Flags().BoolVar(&f.hydrate, "hydrate", false, "bring all of the volume here in the background")
	c.Flags().BoolVar(&f.json, "json", false, "print one JSON object when the mount is ready, and nothing else")
	c.RunE = func(c *cobra.Command, args []string) error { return mountVolume(c, &f, args[0]) }
	return c
}

// mountReport is what `pollux mount --json` prints when clients can connect.
type mountReport struct {
	Volume    string    `json:"volume"`
	Epoch     uint64    `json:"epoch"`
	LSN       uint64    `json:"lsn"`
	Time      time.Time `json:"time"`
	SizeBytes int64     `json:"size_bytes"`
	Writable  bool      `json:"writable"`
	URI       string    `json:"uri"`
	Seconds   float64   `json:"seconds"` // it took to open
	Note      string    `json:"note,omitempty"`
}

func mountVolume(c *cobra.Command, f *mountFlags, name string) error {
	if err := cli.CheckDirectory("mount "+name, "--cache", f.cache); err != nil {
		return err
	}
	if f.memory < mount.MinMemoryBytes {
		return fail.New(fail.Invalid, "mount "+name, "--memory "+f.memory.String(), "too little").WithHint("64MiB is the least")
	}
	if f.socket != "" { // before the log is read
		if err := cli.CheckSocket("--nbd", f.socket); err != nil {
			return err
		}
	}
	start := time.Now()
	debug.SetMemoryLimit(int64(f.memory))
	ctx := c.Context()
	l, closeStore, err := cli.OpenLog(ctx, &f.store)
	if err != nil {
		return err
	}
	defer closeStore()
	p, err := l.PointOf(ctx, name, f.at)
	if err != nil {
		return err
	}
	v := p.Volume
	image, err := l.Image(ctx, p, f.cache)
	if err != nil {
		return err
	}
	defer image.Close()
	dev, err := mount.New(image, mount.Options{Dir: f.cache, CacheBytes: int64(f.cacheBytes), MemoryBytes: int64(f.memory), Writable: f.writable,
		Description: fmt.Sprintf("volume %s at LSN %d", v.Name, p.LSN)})
	if err != nil {
		return err
	}
	defer dev.Close()
	if f.socket == "" {
		f.socket = filepath.Join(os.TempDir(), fmt.Sprintf("pollux-mount-%s-%d.sock", v.Name, os.Getpid()))
	}
	lis, err := cli.ListenFree("--nbd", f.socket)
	if err != nil {
		return err
	}
	rep := mountReport{Volume: v.Name, Epoch: p.Epoch, LSN: p.LSN, Time: p.Time.UTC(), SizeBytes: v.SizeBytes, Writable: f.writable,
		URI: "nbd+unix:///" + url.PathEscape(v.Name) + "?socket=" + f.socket, Seconds: time.Since(start).Seconds(), Note: p.Note}
	if err := sayMounted(c, f, &rep); err != nil {
		return errors.Join(err, lis.Close())
	}
	f.store.Patient.Store(true) // clients wait for a store that is away
	return serveMount(ctx, c.ErrOrStderr(), f, v.Name, dev, lis)
}

func sayMounted(c *cobra.Command, f *mountFlags, r *mountReport) error {
	if f.json {
		return cli.PrintJSON(c.OutOrStdout(), r)
	}
	how := "read-only"
	if r.Writable {
		how = "writable; what is written is gone when this ends"
	}
	if r.Note != "" {
		fmt.Fprintf(c.ErrOrStderr(), "pollux: LSN %d (%s): %s\n", r.LSN, r.Time.Format(time.RFC3339Nano), r.Note)
	}
	_, err := fmt.Fprintf(c.OutOrStdout(), "volume %s at epoch %d LSN %d, %s\nserved at %s (%s), opened in %s; interrupt to end it\n", r.Volume, r.Epoch, r.LSN, r.Time.Format(time.RFC3339Nano),
		r.URI, how, text.Duration(time.Duration(r.Seconds*1e9)))
	return err
}

// serveMount serves until ctx ends.
func serveMount(ctx context.Context, w io.Writer, f *mountFlags, name string, dev *mount.Device, lis net.Listener) error {
	server := nbd.New(nbd.Options{Exports: cli.OneExport{Name: name, Device: &reporting{Device: dev, w: w}},
		Logger: slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Serve(gctx, lis) })
	if f.hydrate {
		g.Go(func() error {
			bar := cli.NewProgress(w, "hydrating")
			err := dev.Hydrate(gctx, twin.Run{Progress: bar.Update, BytesPerSecond: int64(f.limit)})
			bar.End()
			switch {
			case gctx.Err() != nil:
			case err != nil: // what is served goes on being served
				fmt.Fprintln(w, "pollux: not hydrated:", err)
			default:
				fmt.Fprintln(w, "pollux: hydrated: the store is not needed any more")
			}
			return nil
		})
	}
	<-gctx.Done()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = server.Shutdown(drain) // what does not end in time is cut
	_ = server.Close()
	err := g.Wait()
	if ctx.Err() == nil {
		return err
	}
	if st := dev.Stats(); !f.json {
		fmt.Fprintf(w, "pollux: ended; %s read from the store, %s written here are gone\n", text.Bytes(st.StoreBytes), text.Bytes(st.WrittenBytes))
	}
	return nil
}
