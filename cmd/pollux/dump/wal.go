package dump

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/journal"
	"github.com/pollux-dr/pollux/wal"
)

// walDump is what `pollux dump wal --json` prints.
type walDump struct {
	Dir     string     `json:"dir"`
	Holds   string     `json:"holds"` // frames, a Raft log, or nothing
	Entries []walEntry `json:"entries"`
	// Structure is the text form without its entries: segments and batches.
	Structure []string    `json:"structure"`
	Error     *damageInfo `json:"error"`

	chain map[change.StreamID]change.Point
	err   error // the first damage in an entry
}

type walEntry struct {
	Index  uint64             `json:"index"`
	File   string             `json:"file"`
	Offset int64              `json:"offset"`
	Bytes  int                `json:"bytes"`
	Live   bool               `json:"live"`
	Frame  *frameInfo         `json:"frame,omitempty"`
	Raft   *journal.RaftEntry `json:"raft,omitempty"`
	Error  *damageInfo        `json:"error,omitempty"`
}

func newDumpWAL() *cobra.Command {
	var f cli.DaemonFlags
	c := &cobra.Command{Use: "wal DIR", Short: "Show a write-ahead log: an agent's frames, or a journal's Raft log",
		Args: cobra.ExactArgs(1),
		Long: `DIR holds the log's files: <state>/agent/wal or <state>/journal/raft. A process may
be using it. Frames are checked down to their plain bytes and their chain of
hashes, Raft entries down to the commands and frame headers in them.`}
	f.AddJSON(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		d := walDump{Dir: args[0], Holds: "nothing", Entries: []walEntry{}, chain: map[change.StreamID]change.Point{}}
		if !f.JSON {
			err := wal.DumpEntries(vfs.Default, d.Dir, c.OutOrStdout(),
				func(e wal.DumpedEntry) string { _, s := d.entry(&e); return s })
			return d.result(err)
		}
		var text bytes.Buffer
		err := wal.DumpEntries(vfs.Default, d.Dir, &text, func(e wal.DumpedEntry) string {
			w, s := d.entry(&e)
			d.Entries = append(d.Entries, *w)
			return s
		})
		err = d.result(err)
		d.structure(&text)
		d.Error = damageOf(err)
		if perr := cli.PrintJSON(c.OutOrStdout(), d); perr != nil {
			return perr
		}
		return err
	}
	return c
}

// result joins the log's own damage with that of its entries.
func (d *walDump) result(err error) error {
	if err != nil {
		return err
	}
	return d.err
}

func (d *walDump) structure(text io.Reader) {
	b, _ := io.ReadAll(text) // memory
	for line := range strings.Lines(string(b)) {
		if !strings.HasPrefix(line, "    entry ") {
			d.Structure = append(d.Structure, strings.TrimRight(line, "\n"))
		}
	}
}

// entry checks one entry and says what it is.
func (d *walDump) entry(e *wal.DumpedEntry) (*walEntry, string) {
	w := &walEntry{Index: e.Index, File: e.File, Offset: e.Offset, Bytes: len(e.Bytes), Live: e.Live}
	var err error
	var text string
	switch {
	case bytes.HasPrefix(e.Bytes, []byte("PLXF")):
		d.Holds = "frames"
		text, err = d.frame(w, e)
	case journal.IsRaftEntry(e.Index, e.Bytes):
		d.Holds = "a Raft log"
		if w.Raft, err = journal.ParseRaftEntry(e.Bytes); w.Raft != nil {
			text = raftText(w.Raft)
		}
	default:
		text = fmt.Sprintf("neither a frame nor a Raft entry: %x…", e.Bytes[:min(16, len(e.Bytes))])
	}
	if err != nil {
		err = fail.At("read", fmt.Sprintf("%s at byte %d, entry %d", e.File, e.Offset, e.Index), err)
		w.Error = damageOf(err)
		text += " error: " + err.Error()
		if d.err == nil {
			d.err = err
		}
	}
	return w, text
}

// frame checks a frame and, where it counts, that it continues its stream.
func (d *walDump) frame(w *walEntry, e *wal.DumpedEntry) (string, error) {
	f, err := change.Parse(e.Bytes)
	if err != nil {
		return "damaged frame", err
	}
	w.Frame = infoOf(&f.Header, f.Hash)
	if _, err := f.Plain(nil); err != nil {
		return w.Frame.String(), err
	}
	if !e.Live {
		return w.Frame.String(), nil
	}
	at, known := d.chain[f.Stream]
	d.chain[f.Stream] = change.Point{LSN: f.LastLSN, Hash: f.Hash}
	if known {
		err = f.Follows(at)
	}
	return w.Frame.String(), err
}

func raftText(r *journal.RaftEntry) string {
	out := fmt.Sprintf("raft %s, term %d", r.Type, r.Term)
	switch r.Tag {
	case "":
		return out
	case "append":
		out += fmt.Sprintf(", append to stream %s under lease %d of epoch %d", r.Stream, r.Lease.Number, r.Lease.Epoch)
		for _, f := range r.Frames {
			where := "held here"
			if !f.Held {
				where = fmt.Sprintf("in the agent's WAL as entry %d", f.Ref)
			}
			out += fmt.Sprintf("; LSN %d to %d, hash %s, %s", f.First, f.Last, f.Hash, where)
		}
		return out
	case "command":
		return fmt.Sprintf("%s, command %s %s", out, r.Command, text.Line(string(r.Body)))
	}
	return fmt.Sprintf("%s, %s %s", out, r.Tag, text.Line(string(r.Body)))
}
