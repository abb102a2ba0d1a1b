package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/gc"
)

type verifyFlags struct {
	store    cli.StoreFlags
	at, live string
	socket   string
	json     bool
}

func newVerify() *cobra.Command {
	var f verifyFlags
	c := &cobra.Command{Use: "verify [VOLUME] --store URL", Short: "Read a whole object log, or a point of a volume, and check all of it",
		Long: `Without VOLUME it reads every object of the log, every catalog, map and pack, and
checks checksums, chains of hashes, order, fences and the journal index; what is
damaged or missing is named, with the volumes whose newest points need it. With
VOLUME it reads all data of one point. With --live it compares the newest point
with the volume while that is in use: what was written meanwhile is compared
again later, so that only a true difference is one. Damage exits with status 9.`,
		Args: cobra.MaximumNArgs(1)}
	f.store.Add(c)
	f.store.AddAt(c, &f.at, "with VOLUME: recovery point: LSN, time or bookmark (default: the newest)")
	c.Flags().StringVar(&f.live, "live", "", "with VOLUME: NBD URI of the volume itself, as in nbd+unix:///v?socket=/run/pollux/nbd.sock")
	c.Flags().StringVar(&f.socket, "socket", cmp.Or(os.Getenv("POLLUX_SOCKET"), cli.DefaultSocket), "with --live: the agent's control socket ($POLLUX_SOCKET)")
	c.Flags().BoolVar(&f.json, "json", false, "print one JSON object and nothing else")
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 && (f.at != "" || f.live != "") {
			return fail.New(fail.Invalid, "verify", f.store.URL, "--at and --live are for a volume").WithHint("name it: pollux verify VOLUME")
		}
		if f.at != "" && f.live != "" {
			return fail.New(fail.Invalid, "verify", args[0], "--live is with the newest point").WithHint("leave out --at")
		}
		store, done, err := cli.OpenStore(c.Context(), &f.store)
		if err != nil {
			return err
		}
		defer done()
		switch {
		case f.live != "":
			return verifyLive(c, &f, store, args[0])
		case len(args) == 1:
			return verifyPoint(c, &f, store, args[0])
		}
		return verifyLog(c, &f, store)
	}
	return c
}

// verifyReport is what `pollux verify --json` prints of a log.
type verifyReport struct {
	Store   string       `json:"store"`
	Log     *twin.Totals `json:"log"`
	Twin    *gc.Checked  `json:"twin"`
	Damaged []gc.Damaged `json:"damaged"`
	Touched []gc.Touched `json:"touched"`
	Unknown string       `json:"unknown,omitempty"` // why Touched cannot be told
	Seconds float64      `json:"seconds"`
}

func verifyLog(c *cobra.Command, f *verifyFlags, store objstore.Store) (err error) {
	start := time.Now()
	rep := verifyReport{Store: store.URL(), Damaged: []gc.Damaged{}, Touched: []gc.Touched{}}
	damaged := map[string]bool{}
	store, end := cli.Counted(store, c.ErrOrStderr(), "verifying")
	defer end()
	rep.Log, err = twin.Examine(c.Context(), store, func(o *twin.Object) error {
		if o.Err != nil {
			damaged[o.Name] = true
			rep.Damaged = append(rep.Damaged, gc.Damaged{Name: o.Name, Kind: fail.KindOf(o.Err).String(), Text: o.Err.Error()})
		}
		return nil
	})
	if err != nil {
		return err
	}
	if rep.Twin, err = gc.Check(c.Context(), store); err != nil {
		return err
	}
	for _, d := range rep.Twin.Damaged {
		damaged[d.Name] = true
		rep.Damaged = append(rep.Damaged, d)
	}
	if len(damaged) > 0 {
		l, err := twin.Open(c.Context(), store, nil)
		switch {
		case err != nil:
			rep.Unknown = err.Error()
		case l.Damage != nil:
			rep.Unknown = l.Damage.Error()
		default:
			rep.Touched, err = gc.Touches(c.Context(), l, damaged, gc.Options{})
		}
		if err != nil && c.Context().Err() != nil {
			return err
		}
	}
	end()
	rep.Seconds = time.Since(start).Seconds()
	if f.json {
		err = cli.PrintJSON(c.OutOrStdout(), rep)
	} else {
		printVerified(c.OutOrStdout(), &rep)
	}
	if err != nil || len(rep.Damaged) == 0 {
		return err
	}
	return fail.New(fail.Damaged, "verify", rep.Store, fmt.Sprintf("%d objects are damaged or missing; the first: %s", len(rep.Damaged), rep.Damaged[0].Text)).
		WithHint("bring them back from a version or replica of the bucket; points that need nothing of them can be restored")
}

func printVerified(w io.Writer, r *verifyReport) {
	for _, d := range r.Damaged {
		fmt.Fprintf(w, "%s: %s\n", d.Name, text.Line(d.Text))
	}
	for _, t := range r.Touched {
		if t.Error != "" {
			fmt.Fprintf(w, "volume %s of group %s: its newest point cannot be read: %s\n", t.Volume, t.Group, t.Error)
			continue
		}
		fmt.Fprintf(w, "volume %s of group %s: %s of its newest point lie in what is damaged\n", t.Volume, t.Group, text.Bytes(t.NewestBytes))
	}
	switch {
	case r.Unknown != "" && r.Twin.Catalogs == 0:
		fmt.Fprintln(w, "no point behind the damage can be found:", r.Unknown+"; there is no catalog: if garbage was ever collected here, bring catalog/ back first, and the objects of the log that are missing are no loss")
	case r.Unknown != "":
		fmt.Fprintln(w, "no point behind the damage can be found:", r.Unknown)
	case len(r.Damaged) > 0 && len(r.Touched) == 0:
		fmt.Fprintln(w, "the newest point of every volume can be read")
	}
	fmt.Fprintf(w, "read %d objects of the log (%s), %d catalogs, %d maps and %d packs (%s) in %s\n", r.Log.Objects, text.Bytes(r.Log.Bytes), r.Twin.Catalogs,
		r.Twin.Layers, r.Twin.Packs, text.Bytes(r.Twin.Bytes), text.Duration(time.Duration(r.Seconds*1e9)))
	if len(r.Damaged) == 0 {
		fmt.Fprintln(w, "all of it is whole")
	}
}

func verifyPoint(c *cobra.Command, f *verifyFlags, store objstore.Store, name string) error {
	start := time.Now()
	progress := cli.NewReading(c.ErrOrStderr())
	defer progress.End()
	l, err := twin.Open(c.Context(), store, &twin.Reading{Progress: progress.Update})
	if err != nil {
		return err
	}
	p, err := l.PointOf(c.Context(), name, f.at)
	if err != nil {
		return err
	}
	plan, err := l.Plan(c.Context(), p, nil, "")
	if err != nil {
		return err
	}
	defer plan.Close()
	bar := cli.NewProgress(c.ErrOrStderr(), "verifying")
	res, err := plan.Each(c.Context(), twin.Run{Progress: bar.Update}, func(*extent.Extent, []byte) error { return nil })
	bar.End()
	if err != nil {
		return (&fail.Error{Kind: fail.KindOf(err), Op: "verify", Object: fmt.Sprintf("volume %s at LSN %d", name, p.LSN), Err: err}).
			WithHint("bring the object back from a version or replica of the bucket; pollux verify without a volume names all that is damaged")
	}
	took := time.Since(start)
	if f.json {
		return cli.PrintJSON(c.OutOrStdout(), map[string]any{"volume": name, "epoch": p.Epoch, "lsn": p.LSN, "time": p.Time.UTC(), "read_bytes": res.ReadBytes,
			"data_bytes": res.WrittenBytes, "seconds": took.Seconds(), "note": p.Note})
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "volume %s at epoch %d LSN %d, %s: all %s of data are there and whole (%s read in %s)\n", name, p.Epoch, p.LSN, p.Time.UTC().Format(time.RFC3339Nano),
		text.Bytes(res.WrittenBytes), text.Bytes(res.ReadBytes), text.Duration(took))
	return err
}
