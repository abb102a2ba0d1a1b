package wal

import (
	"bytes"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/golden"
)

// writeGolden writes a log of several segments with a front that has moved, a part that
// was dropped from its end, and its end: closed in order or not.
func writeGolden(t *testing.T, closed bool) vfs.FS {
	fs := vfs.NewMem()
	l := openTest(t, Options{FS: fs, SegmentBytes: MinSegmentBytes})
	for serial := range uint64(6) {
		_, err := l.Append(payload(serial, 600), payload(100+serial, 8))
		must(t, err)
		must(t, l.Sync(t.Context(), l.Last()))
	}
	must(t, l.TruncateFront(5))
	must(t, l.TruncateBack(9))
	_, err := l.Append(payload(200, 500))
	must(t, err)
	must(t, l.Sync(t.Context(), 0))
	_, err = l.Append(goldenEnd)
	must(t, err)
	if closed {
		must(t, l.Close())
	}
	return fs
}

var goldenEnd = []byte("the last entry, which was never synced")

// goldenEntry is what writeGolden leaves of an entry.
func goldenEntry(index uint64) []byte {
	serial := (index - 1) / 2
	switch {
	case index == 10:
		return payload(200, 500)
	case index == 11:
		return goldenEnd
	case index%2 == 0:
		return payload(100+serial, 8)
	}
	return payload(serial, 600)
}

// segmentFiles are the segment files of a log, by name.
func segmentFiles(t *testing.T, fs vfs.FS) map[string][]byte {
	names, err := fs.List(testDir)
	must(t, err)
	out := map[string][]byte{}
	for _, name := range names {
		if _, ok, _ := parseName(name); ok {
			f, err := fs.Open(fs.PathJoin(testDir, name))
			must(t, err)
			b, err := io.ReadAll(f)
			must(t, err)
			must(t, f.Close())
			out[name] = b
		}
	}
	return out
}

// TestGoldenLog: a log that was closed in order, and one whose process died, are read as
// they were written, and written on.
func TestGoldenLog(t *testing.T) {
	for _, name := range []string{"closed", "died"} {
		today := segmentFiles(t, writeGolden(t, name == "closed"))
		kept := golden.Files(t, name+".tar.zst", func() map[string][]byte { return today })
		for file, b := range today {
			if !bytes.Equal(kept[file], b) {
				t.Errorf("%s: this build writes %s in another way", name, file)
			}
		}
		fs := vfs.NewMem()
		must(t, fs.MkdirAll(testDir, 0o755))
		for file, b := range kept {
			f, err := fs.Create(fs.PathJoin(testDir, file), vfs.WriteCategoryUnspecified)
			must(t, err)
			_, err = f.Write(b)
			must(t, err)
			must(t, f.Close())
		}
		l := openTest(t, Options{FS: fs, SegmentBytes: MinSegmentBytes, Salt: seededSalt(2)})
		if l.First() > 5 || l.Last() != 11 || l.Recovery().Clean != (name == "closed") {
			t.Errorf("%s: entries %d to %d, %+v", name, l.First(), l.Last(), l.Recovery())
		}
		for index := uint64(5); index <= 11; index++ {
			if b, err := l.Read(index, nil); err != nil || !bytes.Equal(b, goldenEntry(index)) {
				t.Errorf("%s: entry %d is another one: %d bytes, %v", name, index, len(b), err)
			}
		}
		last, err := l.Append([]byte("more"))
		must(t, err)
		must(t, l.Sync(t.Context(), last))
		must(t, l.Close())
		l = openTest(t, Options{FS: fs, SegmentBytes: MinSegmentBytes, Salt: seededSalt(3)})
		if b, err := l.Read(12, nil); err != nil || string(b) != "more" {
			t.Errorf("%s: what was written on: %q, %v", name, b, err)
		}
		must(t, l.Close())
	}
}
