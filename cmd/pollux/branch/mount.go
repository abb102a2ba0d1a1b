package branch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/control/failback"
	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/nbd"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/twin/branch"
	"github.com/pollux-dr/pollux/replicator/twin/mount"
)

// mounted is what --json prints when clients can connect.
type mounted struct {
	Branch    string  `json:"branch"`
	Volume    string  `json:"volume"`
	BaseLSN   uint64  `json:"base_lsn"`
	LastLSN   uint64  `json:"last_lsn"` // the last that the host had
	SizeBytes int64   `json:"size_bytes"`
	Writable  bool    `json:"writable"`
	URI       string  `json:"uri"`
	Seconds   float64 `json:"seconds"`
}

func newMount() *cobra.Command {
	var f flags
	var socket, cache string
	var writable bool
	c := &cobra.Command{Use: "mount ID VOLUME [--socket PATH]", Args: cobra.ExactArgs(2),
		Short: "Serve a volume over NBD as this host had it last",
		Long: `What the branch has is copied to a local file without a name, and lies over the volume
at the branch point, which comes from the object store on demand. With --writable, what is
written stays in that file too, and is gone when the mount ends. It runs until it is
interrupted.`}
	f.add(c, true)
	c.Flags().StringVar(&socket, "socket", "", "unix socket to listen on (default: one in the directory for temporary "+
		"files)")
	c.Flags().StringVar(&cache, "cache", "", "directory of the local file (default: the one for temporary files)")
	c.Flags().BoolVar(&writable, "writable", false, "take writes; they are gone when the mount ends")
	c.RunE = func(c *cobra.Command, args []string) error {
		if socket == "" {
			socket = filepath.Join(os.TempDir(), fmt.Sprintf("pollux-branch-%s-%d.sock", args[1], os.Getpid()))
		}
		return f.mount(c, args[0], args[1], socket, cache, writable)
	}
	return c
}

func (f *flags) mount(c *cobra.Command, id, volume, socket, cache string, writable bool) error {
	began, ctx := time.Now(), c.Context()
	if err := cli.CheckDirectory("mount "+id, "--cache", cache); err != nil {
		return err
	}
	conf, err := f.state()
	if err != nil {
		return err
	}
	b, err := branch.Load(conf.State, id)
	if err != nil {
		return err
	}
	v, err := b.Volume(volume)
	if err != nil {
		return err
	}
	l, store, done, err := f.log(ctx, conf, b)
	if err != nil {
		return err
	}
	defer done()
	image, err := failback.BaseImage(ctx, l, b, v, cache)
	if err != nil {
		return err
	}
	defer image.Close()
	dev, err := b.Mount(ctx, conf.State, v, image, mount.Options{Dir: cache, Writable: writable,
		Description: fmt.Sprintf("volume %s of branch %s", v.Name, b.ID)})
	if err != nil {
		return err
	}
	defer dev.Close()
	lis, err := cli.ListenFree("--socket", socket)
	if err != nil {
		return err
	}
	m := mounted{Branch: b.ID, Volume: v.Name, BaseLSN: b.Base(v).LSN, SizeBytes: v.SizeBytes, Writable: writable,
		URI: "nbd+unix:///" + url.PathEscape(v.Name) + "?socket=" + socket, Seconds: time.Since(began).Seconds()}
	for i := range b.Streams {
		if b.Streams[i].ID == v.Stream {
			m.LastLSN = b.Streams[i].End.LSN
		}
	}
	if err := f.say(c, &m); err != nil {
		return errors.Join(err, lis.Close())
	}
	store.Patient.Store(true) // clients wait for a store that is away
	return serve(ctx, v.Name, dev, lis)
}

func (f *flags) say(c *cobra.Command, m *mounted) error {
	if f.json {
		return cli.PrintJSON(c.OutOrStdout(), m)
	}
	how := "read-only"
	if m.Writable {
		how = "writable; what is written is gone when this ends"
	}
	_, err := fmt.Fprintf(c.OutOrStdout(), "volume %s as it was here last, LSN %d, over LSN %d of the log\n"+
		"served at %s (%s), opened in %s; interrupt to end it\n", m.Volume, m.LastLSN, m.BaseLSN, m.URI, how,
		text.Duration(time.Duration(m.Seconds*1e9)))
	return err
}

// serve serves until ctx ends.
func serve(ctx context.Context, name string, dev block.Device, lis net.Listener) error {
	server := nbd.New(nbd.Options{Exports: cli.OneExport{Name: name, Device: dev},
		Logger: slog.New(slog.NewTextHandler(cli.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Serve(gctx, lis) })
	<-gctx.Done()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = server.Shutdown(drain) // what does not end in time is cut
	_ = server.Close()
	if err := g.Wait(); ctx.Err() == nil {
		return err
	}
	return nil
}
