package dump

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// logDump is what `pollux dump log --json` prints.
type logDump struct {
	Store   string       `json:"store"`
	Objects []logObject  `json:"objects"`
	Totals  *twin.Totals `json:"totals"`
	Error   *damageInfo  `json:"error"`
}

type logObject struct {
	Position uint64            `json:"position"`
	Name     string            `json:"name"`
	Bytes    int64             `json:"bytes"`
	Standing string            `json:"standing"` // valid, void, beyond, missing or damaged
	Head     *headInfo         `json:"head"`
	DeadFrom uint64            `json:"dead_from,omitempty"` // journal index from which on a fence cut it off
	Streams  []twin.StreamPart `json:"streams"`
	Commands []twin.Command    `json:"commands"`
	Error    *damageInfo       `json:"error,omitempty"`
}

func newDumpLog() *cobra.Command {
	var f cli.DaemonFlags
	var s cli.StoreFlags
	c := &cobra.Command{Use: "log --store URL", Short: "Show and verify a whole object log", Args: cobra.NoArgs,
		Long: `Reads every byte of every object and checks it: checksums, the rules of fences, the
journal index, the chain of hashes of every stream, and that the commands apply.
A damaged object is named, and the others are shown; the exit status is then 9.`}
	f.AddJSON(c)
	s.Add(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		store, done, err := cli.OpenStore(c.Context(), &s)
		if err != nil {
			return err
		}
		defer done()
		w := c.OutOrStdout()
		d := logDump{Store: store.URL(), Objects: []logObject{}}
		d.Totals, err = twin.Examine(c.Context(), store, func(o *twin.Object) error {
			v := objectOf(o)
			if f.JSON {
				d.Objects = append(d.Objects, v)
			} else {
				v.print(w)
			}
			return nil
		})
		if err != nil {
			return err
		}
		err = d.Totals.Err()
		d.Error = damageOf(err)
		if f.JSON {
			if perr := cli.PrintJSON(w, d); perr != nil {
				return perr
			}
			return err
		}
		printTotals(w, d.Totals)
		return err
	}
	return c
}

func objectOf(o *twin.Object) logObject {
	v := logObject{Position: o.Position, Name: o.Name, Bytes: o.Bytes,
		Standing: string(o.Standing), DeadFrom: o.DeadFrom, Streams: o.Streams,
		Commands: o.Commands, Error: damageOf(o.Err)}
	if o.Index != nil {
		v.Head = headOf(&o.Index.Head)
	}
	return v
}

func (o *logObject) print(w io.Writer) {
	what := ""
	if h := o.Head; h != nil {
		what = fmt.Sprintf(" %s, %d bytes, %s, written %s", h.Type, o.Bytes, h.Token, h.Time.Format(time.RFC3339Nano))
		if h.Type == segment.Segment.String() {
			what += fmt.Sprintf(", journal index %d to %d, durable below position %d", h.FirstIndex,
				h.LastIndex, h.DurablePosition)
		}
	}
	fmt.Fprintf(w, "%s %s%s\n", o.Name, o.Standing, what)
	if o.Error != nil {
		fmt.Fprintf(w, "  error: %s\n", text.Line(o.Error.Text))
	}
	if o.DeadFrom > 0 {
		fmt.Fprintf(w, "  a dead branch from journal index %d on: a later fence goes on before it\n", o.DeadFrom)
	}
	for _, c := range o.Commands {
		if c.Index > 0 {
			fmt.Fprintf(w, "  %d ", c.Index)
		} else {
			fmt.Fprint(w, "  ")
		}
		fmt.Fprintf(w, "%s %s\n", c.Kind, text.Line(string(c.Body)))
	}
	for i := range o.Streams {
		fmt.Fprintf(w, "  %s\n", streamText(&o.Streams[i]))
	}
}

func streamText(p *twin.StreamPart) string {
	var kinds []string
	for _, k := range slices.Sorted(maps.Keys(p.Kinds)) {
		kinds = append(kinds, fmt.Sprintf("%d %s", p.Kinds[k], k))
	}
	frames := fmt.Sprintf("%d frames", p.Frames)
	if p.Folds > 0 {
		frames += fmt.Sprintf(", some in %d folds (%s that were %s, one point each)", p.Folds, text.Bytes(p.FoldBytes),
			text.Bytes(p.FoldedBytes))
	}
	return fmt.Sprintf("stream %s: LSN %d to %d, %s, %d records (%s), %s of data stored in %s, %s to %s",
		p.Stream, p.FirstLSN, p.LastLSN, frames, p.Records, strings.Join(kinds, ", "), text.Bytes(p.PlainBytes),
		text.Bytes(p.StoredBytes), p.FirstTime.Format(time.RFC3339Nano), p.LastTime.Format(time.RFC3339Nano))
}

func printTotals(w io.Writer, t *twin.Totals) {
	count := func(m map[string]int) string {
		var out []string
		for _, k := range slices.Sorted(maps.Keys(m)) {
			out = append(out, fmt.Sprintf("%d %s", m[k], k))
		}
		return strings.Join(out, ", ")
	}
	fmt.Fprintf(w, "\n%d objects, %s: %s; valid: %s\n", t.Objects, text.Bytes(t.Bytes),
		count(t.Standings), count(t.Types))
	fmt.Fprintf(w, "epoch %d, journal index up to %d, %d commands\n", t.Epoch, t.LastIndex, t.Commands)
	for i := range t.Streams {
		fmt.Fprintln(w, streamText(&t.Streams[i]))
	}
	if t.Damaged == 0 {
		fmt.Fprintln(w, "all checksums, chains and commands are right")
	}
}
