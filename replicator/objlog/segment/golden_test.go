package segment

import (
	"fmt"
	"hash/crc32"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/golden"
	"github.com/pollux-dr/pollux/replicator/state"
)

func goldenCommands(t testing.TB) []byte {
	m := newMaker()
	m.command("g")
	m.command("h")
	return m.build(t)
}

func goldenDocument(typ Type) []byte {
	h := Head{Type: typ, Journal: journal, Token: Token{Epoch: 1, Term: 2, Writer: writer}, FirstIndex: 1, Time: 1234}
	if typ == Identity {
		return Document(h, state.KindIdentity, state.Identity{Journal: journal, Format: 1, Site: "north",
			Created: time.Unix(1234, 0).UTC()})
	}
	h.Position, h.DurablePosition, h.FirstIndex = 9, 7, 120
	return Document(h, state.KindFence, state.Fence{NextIndex: 120, Reason: "a leader of term 2",
		Streams: map[change.StreamID]change.Point{streamA: {LSN: 4, Hash: change.Hash{1}}}})
}

// goldenChecked is a fence of a writer that checks its tail.
func goldenChecked() []byte {
	h := Head{Type: Fence, Journal: journal, Token: Token{Epoch: 1, Term: 3, Writer: writer}, ChecksTail: true,
		Position:        12,
		DurablePosition: 12, FirstIndex: 140, Time: 1234}
	return Document(h, state.KindFence, state.Fence{NextIndex: 140, Reason: "writer started"})
}

// TestGoldenObjects: objects of all versions and types say what they said. Those of
// version 1 with frames and of version 2 were written by the release that wrote them.
func TestGoldenObjects(t *testing.T) {
	kinds, types := golden.Constants(t, "EntryKind", ""), golden.Constants(t, "Type", "")
	for _, v := range []struct {
		name  string
		today func() []byte // nil: this build does not write it any more
		same  bool          // without anything compressed it writes these very bytes
	}{
		{"v1-identity", func() []byte { return goldenDocument(Identity) }, true},
		{"v1-fence", func() []byte { return goldenDocument(Fence) }, true},
		{"v1-fence-checks", goldenChecked, true},
		{"v1-commands", func() []byte { return goldenCommands(t) }, true},
		{"v1-frames", nil, false},
		{"v2-fold", nil, false},
		{"v3-frames", func() []byte { return first(small(t)) }, false},
		{"v3-fold", func() []byte { return first(folded(t)) }, false},
	} {
		obj := golden.Kept(t, v.name+".object", v.today)
		if v.same {
			golden.Same(t, v.name+".object", v.today())
		}
		text, x, err := describe(obj)
		if err != nil {
			t.Errorf("%s: %v", v.name, err)
			continue
		}
		golden.Text(t, v.name+".txt", text)
		if again, err := ParseTail(obj, int64(len(obj))); err != nil || again.Head != x.Head {
			t.Errorf("%s: its tail says something else: %v", v.name, err)
		}
		for name, n := range types {
			if Type(n) == x.Type {
				delete(types, name)
			}
		}
		for i := range x.Entries {
			for name, n := range kinds {
				if EntryKind(n) == x.Entries[i].Kind {
					delete(kinds, name)
				}
			}
		}
	}
	if len(kinds)+len(types) > 0 {
		t.Errorf("no golden object has %v %v", kinds, types)
	}
}

// describe is all that an object says, in words that do not depend on names in the code.
func describe(obj []byte) (string, *Index, error) {
	var out strings.Builder
	var bodies []string
	x, err := Walk(obj, func(_ int, c Checked) {
		switch {
		case c.Err != nil:
		case c.Frame != nil:
			plain, _ := c.Frame.Plain(nil)
			text := fmt.Sprintf("  frame epoch %d lease %d prev %s\n", c.Frame.Epoch, c.Frame.Lease, c.Frame.Prev)
			for i := range c.Frame.Records {
				r := &c.Frame.Records[i]
				text += fmt.Sprintf("  lsn %d %v volume %d %d+%d data %08x\n", r.LSN, r.Kind, r.Volume, r.Off, r.Len,
					crc32.ChecksumIEEE(c.Frame.Data(i, plain)))
			}
			bodies = append(bodies, text)
		case c.Fold != nil:
			bodies = append(bodies, describeFold(c.Fold))
		default:
			bodies = append(bodies, fmt.Sprintf("  %v %s\n", c.Command, c.JSON))
		}
	})
	if err != nil {
		return "", nil, err
	}
	fmt.Fprintf(&out, "version %d %v journal %s %v position %d durable %d index %d to %d time %d\n", x.Version,
		x.Type, x.Journal, x.Token,
		x.Position, x.DurablePosition, x.FirstIndex, x.LastIndex, x.Time)
	if x.ChecksTail {
		out.WriteString("its writer checks its tail\n")
	}
	for i := range x.Entries {
		e := &x.Entries[i]
		fmt.Fprintf(&out,
			"entry kind %d index %d covers %d command %d stream %s at %d+%d lsn %d to %d time %d to %d hash %s "+
				"flags %d\n%s", e.Kind, e.Index,
			e.Covers, e.Command, e.Stream, e.Offset, e.Bytes, e.FirstLSN, e.LastLSN, e.FirstTime, e.LastTime,
			e.Hash, e.Flags, bodies[i])
	}
	if err := x.AddTables(obj); err != nil {
		return "", nil, err
	}
	err = x.EachTable(func(i int, t *Table) error {
		fmt.Fprintf(&out, "table of entry %d codec %v blocks of %d prev %s %d records\n", i, t.Codec,
			t.BlockBytes, t.Prev, len(t.Records))
		for _, b := range t.Blocks {
			fmt.Fprintf(&out, "  block at %d stored %d plain %d crc %08x\n", b.Offset, b.StoredBytes,
				b.PlainBytes, b.CRC)
		}
		return nil
	})
	return out.String(), x, err
}

func describeFold(f *Fold) string {
	h := &f.FoldHeader
	text := fmt.Sprintf("  fold %v stream %s lsn %d to %d prev %s last %s of %d frames, %d bytes, %d plain\n",
		h.Codec, h.Stream, h.FirstLSN, h.LastLSN,
		h.Prev, h.Last, h.Frames, h.FrameBytes, h.FramePlainBytes)
	f.Headers(func(h change.Header, hash change.Hash) {
		text += fmt.Sprintf("  of lsn %d to %d hash %s\n", h.FirstLSN, h.LastLSN, hash)
	})
	for part := range f.Parts() {
		extents, _, err := f.Part(part, nil)
		for i := range extents {
			e := &extents[i]
			text += fmt.Sprintf("  %v volume %d %d+%d data %08x\n", e.Kind, e.Volume, e.Off, e.Len,
				crc32.ChecksumIEEE(e.Data))
		}
		if err != nil {
			text += fmt.Sprintf("  %v\n", err)
		}
	}
	return text
}
