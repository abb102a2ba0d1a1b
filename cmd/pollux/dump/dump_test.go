package dump

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin/hydrate"
	"github.com/pollux-dr/pollux/wal"
)

// runVerb runs a verb and returns what it prints to standard output.
func runVerb(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	root := cli.Strict(New())
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetOut(&out)
	root.SetErr(&bytes.Buffer{})
	root.SetArgs(args[1:]) // behind "dump"
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

var (
	dumpStream  = uuid.MustParse("12345678-0000-0000-0000-000000000001")
	dumpJournal = uuid.MustParse("12345678-0000-0000-0000-000000000002")
)

// dumpFrames are two frames of a stream.
func dumpFrames() (frames [][]byte, entries []segment.Entry) {
	var at change.Point
	for i := range 2 {
		e := change.Encoder{Codec: change.CodecS2}
		h := change.Header{Stream: dumpStream, FirstLSN: at.LSN + 1, Prev: at.Hash, Epoch: 1, Lease: 1}
		b, hash := e.Encode(&h, []change.Change{
			{Kind: change.Write, Volume: 2, Off: 4096, Len: 5000, Data: [][]byte{bytes.Repeat([]byte{byte(i)}, 5000)}},
			{Kind: change.Mark, Data: [][]byte{[]byte("noon")}}})
		at = change.Point{LSN: h.LastLSN, Hash: hash}
		frames = append(frames, bytes.Clone(b))
		entries = append(entries, segment.FrameEntryOf(&h, hash))
	}
	return frames, entries
}

// dumpStore is an object log of identity, fence and segment.
func dumpStore(t *testing.T) (url, dir string) {
	t.Helper()
	dir = t.TempDir()
	url = "file://" + dir
	s, err := objstore.Open(t.Context(), url, objstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	tok := segment.Token{Epoch: 1, Term: 2, Writer: uuid.UUID{3}}
	frames, entries := dumpFrames()
	obj, err := segment.Build(segment.Head{Type: segment.Segment, Journal: dumpJournal, Token: tok, Position: 2,
		DurablePosition: 2, FirstIndex: 1, LastIndex: 2},
		entries, nil, func(i int, dst []byte) error { copy(dst, frames[i]); return nil })
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range [][]byte{
		segment.Document(segment.Head{Type: segment.Identity, Journal: dumpJournal, FirstIndex: 1}, state.KindIdentity,
			state.Identity{Journal: dumpJournal, Format: state.FormatVersion, Site: "r"}),
		segment.Document(segment.Head{Type: segment.Fence, Journal: dumpJournal, Token: tok, Position: 1,
			FirstIndex: 1}, state.KindFence, state.Fence{NextIndex: 1}),
		obj,
	} {
		if err := s.Create(t.Context(), objlog.ObjectName(uint64(i)), b); err != nil {
			t.Fatal(err)
		}
	}
	return url, dir
}

func flipFile(t *testing.T, path string, off int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[off] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// asJSON wants stdout to hold one JSON object.
func asJSON(t *testing.T, out string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(out), v); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
}

func TestDumpLog(t *testing.T) {
	url, dir := dumpStore(t)
	out, err := runVerb(t, "dump", "log", "--store", url)
	if err != nil || !strings.Contains(out, "LSN 1 to 4, 2 frames, 4 records (2 mark, 2 write)") ||
		!strings.Contains(out, "3 objects") {
		t.Errorf("%v:\n%s", err, out)
	}
	flipFile(t, filepath.Join(dir, objlog.ObjectName(1)), 140)
	out, err = runVerb(t, "dump", "log", "--store", url, "--json")
	var d logDump
	asJSON(t, out, &d)
	if fail.ExitCode(err) != 9 || len(d.Objects) != 3 || d.Objects[1].Standing != "damaged" || d.Error == nil ||
		d.Error.Kind != "damaged" || d.Objects[2].Standing != "valid" || len(d.Totals.Streams) != 1 ||
		d.Totals.Streams[0].LastLSN != 4 {
		t.Errorf("%v:\n%s", err, out)
	}
	if _, err := runVerb(t, "dump", "log"); fail.ExitCode(err) != 2 {
		t.Errorf("no store: %v", err)
	}
}

func TestDumpSegmentAndFrame(t *testing.T) {
	url, dir := dumpStore(t)
	out, err := runVerb(t, "dump", "segment", "--store", url, "2", "--json")
	var d segmentDump
	asJSON(t, out, &d)
	if err != nil || d.Head.Type != "segment" || len(d.Entries) != 2 || d.Entries[1].Index != 2 ||
		d.Entries[1].Frame.LastLSN != 4 {
		t.Errorf("%v:\n%s", err, out)
	}
	file := filepath.Join(dir, objlog.ObjectName(2))
	out, err = runVerb(t, "dump", "frame", file, "--offset", fmt.Sprint(d.Entries[1].Offset))
	if err != nil || !strings.Contains(out, "LSN 3 to 4") || !strings.Contains(out, "noon") ||
		!strings.Contains(out, "checksums are right") {
		t.Errorf("%v:\n%s", err, out)
	}
	flipFile(t, file, int(d.Entries[1].Offset)+int(d.Entries[1].Bytes)-1)
	out, err = runVerb(t, "dump", "segment", file)
	if fail.ExitCode(err) != 9 || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "at byte") ||
		!strings.Contains(out, "LSN 1 to 2") {
		t.Errorf("%v:\n%s", err, out)
	}
	out, err = runVerb(t, "dump", "frame", file, "--offset", fmt.Sprint(d.Entries[1].Offset), "--json")
	var f frameDump
	asJSON(t, out, &f)
	if fail.ExitCode(err) != 9 || f.Frame == nil || f.Error == nil {
		t.Errorf("%v:\n%s", err, out)
	}
	for args, code := range map[string]int{"segment /nonexistent": 3, "frame /nonexistent": 3,
		"segment x --store " + url: 2, "segment 7 --store " + url: 3,
		"frame --offset -1 " + file: 2, "frame --offset 1 " + file: 9, "segment": 2, "nothing": 2,
		"wal /nonexistent": 3} {
		if _, err := runVerb(t, append([]string{"dump"}, strings.Fields(args)...)...); fail.ExitCode(err) != code {
			t.Errorf("dump %s: %v, want exit status %d", args, err, code)
		}
	}
}

func TestDumpWAL(t *testing.T) {
	dir := t.TempDir()
	l, err := wal.Open(wal.Options{Dir: dir, SegmentBytes: 64 << 10, BudgetBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	frames, _ := dumpFrames()
	last, err := l.Append(frames...)
	if err == nil {
		err = l.Sync(t.Context(), last)
	}
	if err == nil {
		_, err = l.Append([]byte("something else"), frames[0]) // which does not follow frame 2
	}
	if cerr := l.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := runVerb(t, "dump", "wal", dir, "--json")
	var d walDump
	asJSON(t, out, &d)
	if fail.ExitCode(err) != 9 || !strings.Contains(err.Error(), "entry 4: check chain") ||
		d.Holds != "frames" || len(d.Entries) != 4 ||
		d.Entries[1].Frame.LastLSN != 4 || d.Entries[2].Frame != nil ||
		d.Entries[3].Error == nil || len(d.Structure) == 0 {
		t.Errorf("%v:\n%s", err, out)
	}
	e := d.Entries[1]
	if out, err := runVerb(t, "dump", "frame", e.File, "--offset", fmt.Sprint(e.Offset)); err != nil ||
		!strings.Contains(out, "LSN 3 to 4") {
		t.Errorf("the frame where dump wal says it is: %v:\n%s", err, out)
	}
	if out, err := runVerb(t, "dump", "wal", dir); fail.ExitCode(err) != 9 ||
		!strings.Contains(out, "neither a frame nor a Raft entry") {
		t.Errorf("%v:\n%s", err, out)
	}
}

// TestDumpHydrating shows a side file, and damage of one.
func TestDumpHydrating(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.img")
	at := hydrate.Point{Journal: dumpJournal, Stream: dumpStream, Volume: "disk1", Number: 2, Epoch: 1, LSN: 42,
		SizeBytes: 1 << 20}
	if err := hydrate.Create(hydrate.Place{Path: path}, at); err != nil {
		t.Fatal(err)
	}
	side := path + hydrate.SideSuffix
	out, err := runVerb(t, "dump", "hydrating", side)
	if err != nil || !strings.Contains(out, "volume disk1 at LSN 42") || !strings.Contains(out, "0 of 256 pages") {
		t.Errorf("%q, %v", out, err)
	}
	if out, err = runVerb(t, "dump", "hydrating", side, "--json"); err != nil || !strings.Contains(out, `"lsn": 42`) {
		t.Errorf("%q, %v", out, err)
	}
	b, err := os.ReadFile(side)
	if err == nil {
		b[20] ^= 1
		err = os.WriteFile(side, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := runVerb(t, "dump", "hydrating", side); !fail.Is(err, fail.Damaged) {
		t.Error(err)
	}
}
