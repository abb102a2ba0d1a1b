package dump

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// headInfo is an object's head.
type headInfo struct {
	Type            string        `json:"type"`
	Journal         string        `json:"journal"`
	Token           segment.Token `json:"token"`
	Position        uint64        `json:"position"`
	DurablePosition uint64        `json:"durable_position"`
	FirstIndex      uint64        `json:"first_index"`
	LastIndex       uint64        `json:"last_index"`
	Time            time.Time     `json:"time"`
}

func headOf(h *segment.Head) *headInfo {
	return &headInfo{h.Type.String(), h.Journal.String(), h.Token, h.Position, h.DurablePosition, h.FirstIndex,
		h.LastIndex, time.Unix(0, h.Time).UTC()}
}

// segmentDump is what `pollux dump segment --json` prints.
type segmentDump struct {
	Object  string         `json:"object"`
	Bytes   int            `json:"bytes"`
	Head    *headInfo      `json:"head"`
	Entries []segmentEntry `json:"entries"`
	Error   *damageInfo    `json:"error"`
}

type segmentEntry struct {
	Index   uint64          `json:"index,omitempty"` // 0 in an identity or a fence
	Offset  int64           `json:"offset"`
	Bytes   uint32          `json:"bytes"`
	Frame   *frameInfo      `json:"frame,omitempty"`
	Fold    *foldInfo       `json:"fold,omitempty"`
	Command string          `json:"command,omitempty"`
	Body    json.RawMessage `json:"body,omitempty"`
	Error   *damageInfo     `json:"error,omitempty"`
}

// foldInfo is what is left of a run of frames.
type foldInfo struct {
	Stream          string    `json:"stream"`
	FirstLSN        uint64    `json:"first_lsn"`
	LastLSN         uint64    `json:"last_lsn"` // the only point that is left
	FirstTime       time.Time `json:"first_time"`
	LastTime        time.Time `json:"last_time"`
	Codec           string    `json:"codec"`
	Frames          uint32    `json:"frames"`
	FrameBytes      int64     `json:"frame_bytes"`
	FramePlainBytes int64     `json:"frame_plain_bytes"`
	Records         uint32    `json:"records"`
	Blocks          uint32    `json:"blocks"`
	PlainBytes      int64     `json:"plain_bytes"`
	StoredBytes     int64     `json:"stored_bytes"`
	Prev            string    `json:"prev"`
	Hash            string    `json:"hash"`
}

func foldInfoOf(h *segment.FoldHeader) *foldInfo {
	return &foldInfo{h.Stream.String(), h.FirstLSN, h.LastLSN, time.Unix(0, h.FirstTime).UTC(),
		time.Unix(0, h.LastTime).UTC(), h.Codec.String(), h.Frames, h.FrameBytes, h.FramePlainBytes, h.Records,
		h.Blocks, h.PlainBytes, h.StoredBytes, h.Prev.String(), h.Last.String()}
}

func (f *foldInfo) String() string {
	return fmt.Sprintf("fold of %d frames, stream %s LSN %d to %d: %d records, "+
		"%d plain and %d stored bytes (frames: %d and %d)", f.Frames, f.Stream, f.FirstLSN, f.LastLSN, f.Records,
		f.PlainBytes, f.StoredBytes, f.FramePlainBytes, f.FrameBytes)
}

func newDumpSegment() *cobra.Command {
	var f cli.DaemonFlags
	var s cli.StoreFlags
	c := &cobra.Command{Use: "segment FILE | segment --store URL POSITION",
		Short: "Show one object of an object log: segment, fence or identity", Args: cobra.ExactArgs(1)}
	f.AddJSON(c)
	s.Add(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		name, obj, err := readObject(c, &s, args[0])
		if err != nil {
			return err
		}
		d := segmentDump{Object: name, Bytes: len(obj), Entries: []segmentEntry{}}
		err = fail.At("read", name, d.read(obj))
		d.Error = damageOf(err)
		if f.JSON {
			if perr := cli.PrintJSON(c.OutOrStdout(), d); perr != nil {
				return perr
			}
			return err
		}
		d.print(c.OutOrStdout())
		return err
	}
	return c
}

func readObject(c *cobra.Command, s *cli.StoreFlags, arg string) (name string, b []byte, err error) {
	if s.URL == "" {
		st, err := os.Stat(arg)
		if err == nil && st.Size() > segment.MaxObjectBytes {
			return arg, nil, fail.New(fail.Invalid, "read", arg,
				fmt.Sprintf("%d bytes are more than any object has", st.Size()))
		}
		if b, err = os.ReadFile(arg); err != nil {
			return arg, nil, fileError("read", arg, err)
		}
		return arg, b, nil
	}
	pos, err := strconv.ParseUint(arg, 10, 64)
	if err != nil {
		return "", nil, fail.New(fail.Invalid, "read", arg, "a position is a number")
	}
	store, done, err := cli.OpenStore(c.Context(), s)
	if err != nil {
		return "", nil, err
	}
	defer done()
	name = objlog.ObjectName(pos)
	b, err = objstore.ReadWhole(c.Context(), store, name, segment.MaxObjectBytes)
	return store.URL() + "/" + name, b, err
}

func (d *segmentDump) read(obj []byte) error {
	var entries []segmentEntry
	x, err := segment.Walk(obj, func(i int, c segment.Checked) {
		e := segmentEntry{Error: damageOf(c.Err)}
		switch {
		case c.Frame != nil:
			e.Frame = infoOf(&c.Frame.Header, c.Frame.Hash)
		case c.Fold != nil:
			e.Fold = foldInfoOf(&c.Fold.FoldHeader)
		case c.Err == nil:
			e.Command, e.Body = c.Command.String(), c.JSON
		}
		entries = append(entries, e)
	})
	if x == nil {
		return err
	}
	d.Head = headOf(&x.Head)
	for i := range entries {
		e := &entries[i]
		e.Offset, e.Bytes, e.Index = x.Entries[i].Offset, x.Entries[i].Bytes, x.Entries[i].Index
	}
	d.Entries = append(d.Entries, entries...)
	return err
}

func (d *segmentDump) print(w io.Writer) {
	if d.Head == nil {
		return
	}
	h := d.Head
	fmt.Fprintf(w, "%s: %s at position %d, %d bytes, of journal %s\n", d.Object, h.Type, h.Position, d.Bytes, h.Journal)
	fmt.Fprintf(w, "token %s, positions below %d were durable, written %s\n", h.Token, h.DurablePosition,
		h.Time.Format(time.RFC3339Nano))
	if h.Type == segment.Segment.String() {
		fmt.Fprintf(w, "journal index %d to %d\n", h.FirstIndex, h.LastIndex)
	}
	for i := range d.Entries {
		fmt.Fprintln(w, d.Entries[i].String())
	}
	if d.Error == nil {
		fmt.Fprintln(w, "all checksums are right")
	}
}

func (e *segmentEntry) String() string {
	where := fmt.Sprintf("  at byte %d, %d bytes: ", e.Offset, e.Bytes)
	if e.Index > 0 {
		where = fmt.Sprintf("  index %d at byte %d, %d bytes: ", e.Index, e.Offset, e.Bytes)
	}
	switch {
	case e.Error != nil:
		return where + "error: " + e.Error.Text
	case e.Frame != nil:
		return where + e.Frame.String()
	case e.Fold != nil:
		return where + e.Fold.String()
	}
	return fmt.Sprintf("%s%s %s", where, e.Command, text.Line(string(e.Body)))
}
