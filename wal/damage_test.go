package wal

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/fail"
)

// damageFixture returns a log of several segments, its contents, and its files.
func damageFixture(t *testing.T, clean bool) (*vfs.MemFS, [][]byte) {
	mem := vfs.NewCrashableMem()
	l := openTest(t, Options{FS: mem})
	var want [][]byte
	for i := range 12 {
		var batch [][]byte
		for j := range 1 + i%3 {
			batch = append(batch, payload(uint64(i*10+j), 20+i*300))
		}
		want = append(want, batch...)
		last, err := l.Append(batch...)
		must(t, err)
		must(t, l.Sync(t.Context(), last))
	}
	if !clean {
		killed := copyFS(t, mem, testDir)
		must(t, l.Close())
		return killed, want
	}
	must(t, l.Close())
	return mem, want
}

// TestDamage flips bytes everywhere: what is read is right, or refused by name.
func TestDamage(t *testing.T) {
	t.Parallel()
	for _, clean := range []bool{true, false} {
		t.Run(fmt.Sprintf("clean=%v", clean), func(t *testing.T) {
			mem, want := damageFixture(t, clean)
			names, err := mem.List(testDir)
			must(t, err)
			slices.Sort(names)
			names = slices.DeleteFunc(names, func(n string) bool { _, isSegment, _ := parseName(n); return !isSegment })
			if len(names) < 3 {
				t.Fatalf("only %d segments", len(names))
			}
			for i, name := range names {
				path := mem.PathJoin(testDir, name)
				orig := readFile(t, mem, path)
				last := i == len(names)-1
				lastBatch := lastBatchOffset(orig, clean)
				for off := 0; off < len(orig); off += step(off) {
					damaged := bytes.Clone(orig)
					damaged[off] ^= 1 << (off % 8)
					undetectable := last && !clean && off >= lastBatch
					checkDamage(t, mem, path, damaged, off, want, undetectable)
				}
			}
		})
	}
}

// step makes for every byte of headers and some of the rest.
func step(off int) int {
	in := off % blockBytes
	if testing.Short() && in > 8 && off > blockBytes {
		return 37
	}
	switch {
	case in < batchHeaderBytes+2*entryHeaderBytes, off < blockBytes && in%headerCopyStride < headerCopyBytes:
		return 1
	case in < headerCopyStride:
		return 97
	}
	return 397
}

// lastBatchOffset returns where the last batch with entries begins.
func lastBatchOffset(b []byte, clean bool) int {
	at := 0
	for off := blockBytes; off < len(b); off += blockBytes {
		if h, err := decodeBatchHeader(b[off:]); err == nil && h.flags&flagSeal == 0 {
			at = off
		}
	}
	return at
}

func checkDamage(t *testing.T, mem *vfs.MemFS, path string, b []byte, off int, want [][]byte, mayLose bool) {
	t.Helper()
	fs := copyFS(t, mem, testDir)
	writeFile(t, fs, path, b)
	named := func(err error) {
		t.Helper()
		if !fail.Is(err, fail.Damaged) && !fail.Is(err, fail.Unsupported) {
			t.Fatalf("%s byte %d: error of kind %v: %v", path, off, fail.KindOf(err), err)
		}
		if !strings.Contains(err.Error(), path) || fail.Is(err, fail.Damaged) &&
			!strings.Contains(err.Error(), "at byte ") {
			t.Fatalf("%s byte %d: error names no file and byte: %v", path, off, err)
		}
	}
	l, err := Open(withDefaults(Options{FS: fs}))
	if err != nil {
		named(err)
		return
	}
	defer l.Close()
	if l.First() != 1 || l.Last() != uint64(len(want)) && !mayLose {
		t.Fatalf("%s byte %d: silently lost entries: [%d, %d], want [1, %d]", path, off, l.First(), l.Last(), len(want))
	}
	if mayLose && l.Last()+3 < uint64(len(want)) {
		t.Fatalf("%s byte %d: lost more than the last batch: %d of %d", path, off, l.Last(), len(want))
	}
	for i := l.First(); i <= l.Last(); i++ {
		b, err := l.Read(i, nil)
		if err != nil {
			named(err)
		} else if !bytes.Equal(b, want[i-1]) {
			t.Fatalf("%s byte %d: entry %d is wrong", path, off, i)
		}
	}
}

func TestUnknownVersion(t *testing.T) {
	mem, _ := damageFixture(t, true)
	path := mem.PathJoin(testDir, segmentName(2))
	b := readFile(t, mem, path)
	b[4], b[headerCopyStride+4] = 9, 9
	writeFile(t, mem, path, b)
	_, err := Open(withDefaults(Options{FS: mem}))
	wantKind(t, err, fail.Unsupported, nil)
	if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "version 9") {
		t.Fatalf("error does not say what: %v", err)
	}
}

func TestDump(t *testing.T) {
	mem, want := damageFixture(t, true)
	var out bytes.Buffer
	must(t, Dump(mem, testDir, &out, func(i uint64, b []byte) string { return fmt.Sprintf("<%s>", b[:8]) }))
	text := out.String()
	for _, s := range []string{"sequence 1,", "sequence 4,", "newest", "closed in order",
		fmt.Sprintf("<%s>", want[5][:8]),
		fmt.Sprintf("entry %d: ", len(want))} {
		if !strings.Contains(text, s) {
			t.Errorf("dump does not contain %q:\n%s", s, text)
		}
	}
	path := mem.PathJoin(testDir, segmentName(2))
	b := readFile(t, mem, path)
	b[2*blockBytes+200] ^= 1
	writeFile(t, mem, path, b)
	out.Reset()
	err := Dump(mem, testDir, &out, nil)
	wantKind(t, err, fail.Damaged, nil)
	if !strings.Contains(out.String(), "sequence 4,") {
		t.Error("dump did not go on after damage")
	}
}

func TestReadOnlyBesideWriter(t *testing.T) {
	mem := vfs.NewCrashableMem()
	l := openTest(t, Options{FS: mem})
	defer l.Close()
	for i := range 40 {
		_, err := l.Append(payload(uint64(i), 3000))
		must(t, err)
		before := mem.String()
		ro := openTest(t, Options{FS: mem, ReadOnly: true})
		if ro.Last() != uint64(i+1) {
			t.Fatalf("reader sees %d entries of %d", ro.Last(), i+1)
		}
		b, err := ro.Read(uint64(i+1), nil)
		if err != nil || !bytes.Equal(b, payload(uint64(i), 3000)) {
			t.Fatal(err)
		}
		_, err = ro.Append([]byte("x"))
		wantKind(t, err, fail.Refused, ErrReadOnly)
		wantKind(t, ro.Sync(t.Context(), 1), fail.Refused, ErrReadOnly)
		wantKind(t, ro.Reset(1), fail.Refused, ErrReadOnly)
		must(t, ro.Close())
		if after := mem.String(); after != before {
			t.Fatalf("read-only open changed the directory:\n%s\n%s", before, after)
		}
	}
	_, err := Open(withDefaults(Options{FS: mem, ReadOnly: true, Dir: "/nowhere"}))
	wantKind(t, err, fail.NotFound, nil)
}

// TestCutOffFile: a file that ends early is damage, unless only what no
// watermark covers is missing.
func TestCutOffFile(t *testing.T) {
	mem, want := damageFixture(t, false)
	names, err := mem.List(testDir)
	must(t, err)
	slices.Sort(names)
	names = slices.DeleteFunc(names, func(n string) bool { _, isSegment, _ := parseName(n); return !isSegment })
	for i, name := range names {
		path := mem.PathJoin(testDir, name)
		orig := readFile(t, mem, path)
		for n := 0; n < len(orig); n += 511 {
			fs := copyFS(t, mem, testDir)
			writeFile(t, fs, path, orig[:n])
			l, err := Open(withDefaults(Options{FS: fs}))
			if err != nil {
				wantKind(t, err, fail.Damaged, nil)
				continue
			}
			if i < len(names)-1 && l.Last() != uint64(len(want)) {
				t.Fatalf("%s cut to %d bytes: [%d, %d]", path, n, l.First(), l.Last())
			}
			for j := l.First(); j <= l.Last(); j++ {
				if b, err := l.Read(j, nil); err != nil {
					wantKind(t, err, fail.Damaged, nil)
				} else if !bytes.Equal(b, want[j-1]) {
					t.Fatalf("%s cut to %d bytes: entry %d is wrong", path, n, j)
				}
			}
			must(t, l.Close())
		}
	}
}
