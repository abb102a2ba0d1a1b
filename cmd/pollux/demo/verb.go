package demo

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/quantity"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

type flags struct {
	store    cli.StoreFlags
	scenario string
	seconds  int
	size     quantity.Bytes
	seed     uint64
	keep     bool
	json     bool
}

const (
	minDemoBytes       = 16 << 20
	defaultDemoBytes   = 1 << 30
	defaultCircleBytes = 256 << 20
	scenarioLoss       = "loss"
	scenarioCircle     = "circle"
)

// New makes `pollux demo`.
func New() *cobra.Command {
	var f flags
	c := &cobra.Command{Use: "demo", Short: "Watch a volume survive the loss of its site", Args: cobra.NoArgs,
		Long: `In a temporary directory: starts an agent with a volume behind NBD, an embedded
journal and an object store; writes real data, sets a bookmark half way, kills the
agent in mid-load, deletes its state, restores from the store alone and compares
with a model.

With --scenario circle, two sites: a standby follows under load, the first site is lost,
the second goes on warm, the first comes back as a standby, what only it had is saved as a
branch, and the journal is handed back in order; then a fresh host takes over from the store
alone. All that is served, restored, saved and followed is compared with a model, and what
was lost must be what the log did not have.

Exits 0 only when everything was verified.`}
	f.store.Add(c)
	c.Flags().Lookup("store").Usage = "object store (default: a directory); s3://bucket/prefix gets a prefix of " +
		"its own below"
	c.Flags().StringVar(&f.scenario, "scenario", scenarioLoss, "what is played: "+scenarioLoss+" or "+scenarioCircle)
	c.Flags().IntVar(&f.seconds, "seconds", 20, "length of the load")
	c.Flags().Var(&f.size, "size", "size of the volume (default 1GiB, of the circle 256MiB)")
	c.Flags().Uint64Var(&f.seed, "seed", 0, "seed of the load (default: random)")
	c.Flags().BoolVar(&f.keep, "keep", false, "keep the temporary directory and the objects")
	c.Flags().BoolVar(&f.json, "json", false, "print one JSON object and nothing else")
	c.RunE = func(c *cobra.Command, _ []string) error { return runDemo(c, &f) }
	return c
}

func runDemo(c *cobra.Command, f *flags) error {
	if f.scenario != scenarioLoss && f.scenario != scenarioCircle {
		return fail.New(fail.Invalid, "demo", "--scenario", fmt.Sprintf("%q: %s or %s", f.scenario, scenarioLoss,
			scenarioCircle))
	}
	if f.size == 0 {
		f.size = defaultDemoBytes
		if f.scenario == scenarioCircle {
			f.size = defaultCircleBytes
		}
	}
	if f.seconds < 2 || f.seconds > 24*3600 {
		return fail.New(fail.Invalid, "demo", "--seconds", fmt.Sprintf("%d: 2 to 86400", f.seconds))
	}
	if f.size < minDemoBytes || f.size%4096 != 0 {
		return fail.New(fail.Invalid, "demo", "--size", fmt.Sprintf("%v: at least 16MiB, a multiple of 4KiB", f.size))
	}
	binaryPath, err := os.Executable()
	if err != nil {
		return fail.Wrap(fail.Internal, "find", "own binary", err)
	}
	dir, err := os.MkdirTemp("", "pollux-demo-")
	if err != nil {
		return fail.Wrap(fail.Full, "create", "temporary directory", err)
	}
	if f.seed == 0 {
		var b [8]byte
		_, _ = rand.Read(b[:])
		f.seed = binary.LittleEndian.Uint64(b[:]) >> 16
	}
	o := Options{Dir: dir, Runtime: filepath.Join(tmpfs(), filepath.Base(dir)), Binary: binaryPath,
		SizeBytes: int64(f.size), Load: time.Duration(f.seconds) * time.Second, Seed: f.seed, Out: c.OutOrStdout()}
	if f.json {
		o.Out = c.ErrOrStderr()
	}
	defer func() {
		_ = os.RemoveAll(o.Runtime)
		if !f.keep {
			_ = os.RemoveAll(dir)
		}
	}()
	if err := demoStore(&o, f); err != nil {
		return err
	}
	err = play(c, f, o)
	switch {
	case f.keep:
		fmt.Fprintf(c.ErrOrStderr(), "kept: %s and %s\n", dir, o.Store)
	case f.store.URL != "":
		removeObjects(c.Context(), f)
	}
	return err
}

// play runs the scenario and prints what it found.
func play(c *cobra.Command, f *flags, o Options) error {
	if f.scenario == scenarioCircle {
		rep, err := Circle(c.Context(), o)
		if err != nil {
			return err
		}
		return circleReport(c, f, rep)
	}
	rep, err := Run(c.Context(), o)
	if err != nil {
		return err
	}
	return demoReport(c, f, rep)
}

// tmpfs is where arenas can live on this machine.
func tmpfs() string {
	if st, err := os.Stat("/dev/shm"); err == nil && st.IsDir() {
		return "/dev/shm"
	}
	return os.TempDir()
}

// demoStore gives the demo a place of its own in the store.
func demoStore(o *Options, f *flags) error {
	if f.store.URL == "" {
		o.Store = "file://" + filepath.Join(o.Dir, "remote-site")
		return nil
	}
	f.store.URL = strings.TrimRight(f.store.URL, "/") + "/" + filepath.Base(o.Dir)
	o.Store = f.store.URL
	so := f.store.Options
	for _, s := range []struct{ flag, key, value string }{{"endpoint", "endpoint", so.Endpoint},
		{"region", "region", so.Region}, {"credentials-file", "credentials_file", so.CredentialsFile},
		{"ca-file", "ca_file", so.CAFile}} {
		if s.value != "" {
			o.StoreArgs = append(o.StoreArgs, "--"+s.flag, s.value)
			o.Target += fmt.Sprintf("      %s: %q\n", s.key, s.value)
		}
	}
	return nil
}

// removeObjects deletes what the demo put into the store, where it may.
func removeObjects(ctx context.Context, f *flags) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	s, done, err := cli.OpenStore(ctx, &f.store)
	if err != nil {
		return
	}
	defer done()
	var names []string
	err = s.List(ctx, "", "", func(i objstore.Info) error { names = append(names, i.Name); return nil })
	for _, n := range names {
		if err == nil {
			err = s.Delete(ctx, n)
		}
	}
	if err != nil {
		fmt.Fprintf(cli.Stderr, "pollux: the demo's objects stay in %s: %v\n", f.store.URL, err)
	}
}

func demoReport(c *cobra.Command, f *flags, r *Report) error {
	w := c.OutOrStdout()
	if f.json {
		if err := cli.PrintJSON(w, r); err != nil {
			return err
		}
	} else {
		ms := func(s float64) string { return text.Duration(time.Duration(s * 1e9)) }
		fmt.Fprintf(w, "\n  lag           p50 %s, p99 %s, max %s\n", ms(r.Lag.P50), ms(r.Lag.P99), ms(r.Lag.Max))
		fmt.Fprintf(w, "  actual RPO    %d writes, %s (newest point: LSN %d of %d acknowledged; %d was reported "+
			"durable)\n", r.RPOWrites, ms(r.RPOSeconds), r.RestoredLSN, r.LastAckedLSN, r.DurableLSN)
		fmt.Fprintf(w, "  RTO           %s from the kill to the restored image\n", ms(r.RTOSeconds))
		fmt.Fprintf(w, "  bytes         %s written, %s shipped, %s stored\n", text.Bytes(r.BytesWritten),
			text.Bytes(r.BytesShipped), text.Bytes(r.BytesStored))
		if r.Verified {
			fmt.Fprintln(w, "  verified      both images equal the model, byte by byte")
		}
	}
	return verdict(r.Verified, r.FailureReason, r.Seed)
}

// verdict is the verb's error.
func verdict(verified bool, why string, seed uint64) error {
	if verified {
		return nil
	}
	return fail.New(fail.Damaged, "verify", "demo", why).
		WithHint(fmt.Sprintf("repeat with --keep --seed %d and report it", seed))
}
