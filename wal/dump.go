package wal

import (
	"bufio"
	"fmt"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Dump prints every segment, batch and entry of the log in dir to w, and where
// and why it stopped reading each segment. entry says what to print of an entry;
// nil prints only its length. Nothing is changed, and another process may write
// meanwhile.
//
// It prints all that can be read even where something is damaged, and returns
// the first fail.Damaged or fail.Unsupported error only then.
func Dump(fs vfs.FS, dir string, w io.Writer, entry func(index uint64, b []byte) string) error {
	if entry == nil {
		return DumpEntries(fs, dir, w, nil)
	}
	return DumpEntries(fs, dir, w, func(e DumpedEntry) string { return entry(e.Index, e.Bytes) })
}

// DumpedEntry is an entry as DumpEntries finds it.
type DumpedEntry struct {
	Index  uint64
	File   string
	Offset int64  // of Bytes in File
	Live   bool   // false: truncated, or in a segment that does not count
	Bytes  []byte // valid during the call
}

// DumpEntries is Dump for callers that want to know where an entry lies and
// whether it counts.
func DumpEntries(fs vfs.FS, dir string, w io.Writer, entry func(DumpedEntry) string) error {
	names, err := fs.List(dir)
	if err != nil {
		return ioError("dump wal", dir, err)
	}
	slices.Sort(names)
	d := dumper{fs: fs, dir: dir, w: bufio.NewWriter(w), entry: entry}
	found := false
	for _, name := range names {
		n, isSegment, isSpare := parseName(name)
		path := fs.PathJoin(dir, name)
		switch {
		case isSegment:
			found = true
			d.open(path, n)
		case isSpare:
			if info, err := fs.Stat(path); err == nil {
				d.spares = append(d.spares, fmt.Sprintf("spare %s: %d bytes\n", name, info.Size()))
			}
		}
	}
	if len(d.spares) == 0 && !found {
		return fail.New(fail.NotFound, "dump wal", dir, "no log in this directory").
			WithHint("name <state>/agent/wal or <state>/journal/raft")
	}
	d.segments()
	for _, s := range d.spares {
		d.printf("%s", s)
	}
	if err := d.w.Flush(); err != nil {
		return ioError("dump wal", dir, err)
	}
	return d.err
}

type dumper struct {
	fs     vfs.FS
	dir    string
	w      *bufio.Writer
	entry  func(DumpedEntry) string
	all    []found
	spares []string
	err    error // the first damage
}

func (d *dumper) printf(format string, args ...any) { fmt.Fprintf(d.w, format, args...) }

func (d *dumper) note(err error) {
	d.printf("  error: %v\n", err)
	if d.err == nil {
		d.err = err
	}
}

func (d *dumper) open(path string, sequence uint64) {
	f, err := openSegment(d.fs, path, sequence, true)
	switch {
	case err == nil:
		d.all = append(d.all, f)
	case !isNotExist(err): // else recycled since the directory was listed
		d.printf("segment %s: unreadable\n", path)
		d.note(err)
	}
}

func (d *dumper) segments() {
	defer closeAll(d.all)
	chain, _, err := linkSegments(d.dir, d.all)
	if err != nil {
		d.printf("the segments do not form a chain\n")
		d.note(err)
	}
	for _, f := range d.all {
		until, state := uint64(0), "dead"
		i := slices.IndexFunc(chain, func(c found) bool { return c.sequence == f.sequence })
		switch {
		case err != nil:
			state = "of unknown state"
		case i >= 0 && i == len(chain)-1:
			state = "newest"
		case i >= 0:
			until = chain[i+1].base
			state = fmt.Sprintf("live below entry %d", until)
		}
		d.segment(f, state, until)
	}
}

func (d *dumper) segment(f found, state string, until uint64) {
	d.printf("segment %s: sequence %d, base %d, front %d, continues %d, salt %016x, %s\n",
		f.path, f.sequence, f.base, f.front, f.prevSequence, f.salt, state)
	sc, err := newScan(f.file, f.segmentHeader, f.crc, true)
	if err != nil {
		d.note(ioError("dump wal", f.path, err))
		return
	}
	if err := sc.run(func(b *batch) error {
		d.batch(f.path, sc.off, b, until, state == "dead")
		return nil
	}); err != nil {
		d.note(damaged("dump wal", f.path, sc.off, err))
		return
	}
	d.printf("  ends at byte %d, entry %d would be next; what follows is not of this log: %v\n", sc.off,
		sc.next, sc.why)
	if until > sc.next {
		d.note(damaged("dump wal", f.path, sc.off, fmt.Errorf("%w; entries up to %d were durable", sc.why, until-1)))
		return
	}
	synced, more, err := sc.laterBatch()
	switch {
	case err != nil:
		d.note(damaged("dump wal", f.path, sc.off, err))
	case more && synced >= sc.next && state == "newest":
		d.note(damaged("dump wal", f.path, sc.off, fmt.Errorf("%w; entries up to %d were durable", sc.why, synced)))
	case more && state == "newest":
		d.printf("  a torn tail that was never synced follows\n")
	case sc.sealed:
		d.printf("  closed in order\n")
	}
}

func (d *dumper) batch(path string, off int64, b *batch, until uint64, deadSegment bool) {
	if b.flags&flagSeal != 0 {
		d.printf("  seal at byte %d: everything through entry %d is durable\n", off, b.synced)
		return
	}
	d.printf("  batch at byte %d: entries %d to %d, %d bytes, synced through %d, front %d, chain %08x\n",
		off, b.first, b.first+uint64(b.count)-1, b.payloadBytes, b.synced, b.front, b.chain)
	for i, e := range b.entries {
		index := b.first + uint64(i)
		at := int64(b.offsets[i]) + entryHeaderBytes // of the entry's own bytes
		dead, live := "", !deadSegment
		if until != 0 && index >= until {
			live = false
			dead = " (truncated)"
		}
		text := ""
		if d.entry != nil {
			text = ": " + d.entry(DumpedEntry{index, path, at, live, e})
		}
		d.printf("    entry %d: %d bytes at byte %d%s%s\n", index, len(e), at, dead, text)
	}
}
