package gc

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"math/rand/v2"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/zeebo/xxh3"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/seed"
	"github.com/pollux-dr/pollux/replicator/logtest"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// bucket is a small one with everything in it: commands, frames, folds, a resync,
// bookmarks, catalogs, maps and packs.
var bucket = sync.OnceValue(func() (b struct {
	objects map[string][]byte
	names   []string
	now     time.Time
}) {
	t := &testing.T{} // a failure here shows as an empty bucket
	s, err := objstore.Open(context.Background(), "file:///b", objstore.Options{FS: vfs.NewMem()})
	if err != nil {
		panic(err)
	}
	l := &testLog{Log: logtest.New(t, s), t: t, r: rand.New(rand.NewPCG(1, 2))}
	l.Codec, l.Step = change.CodecS2, 7*time.Minute
	l.Volume("v", 300<<10)
	l.Volume("w", 100<<10)
	l.Command(state.KindGroupPut, state.Group{Name: "g", Ack: "local", Overflow: "throttle", PITR: state.PITRFold,
		Retention: keepTest})
	o := l.options()
	o.Grace = 0
	for i := range 12 {
		l.Folding = i%3 == 2
		l.Random(l.r, 5)
		if i%4 == 1 {
			l.Bookmark(fmt.Sprint("b", i))
			l.resync()
		}
		l.horizon()
		if i > 3 {
			if _, err := Collect(context.Background(), s, o); err != nil {
				panic(err)
			}
		}
	}
	l.Random(l.r, 5) // behind the newest catalog
	b.objects, b.now = map[string][]byte{}, l.Clock
	err = s.List(context.Background(), "", "", func(i objstore.Info) error {
		body, err := s.Read(context.Background(), i.Name, 0, -1, nil)
		b.objects[i.Name] = body
		return err
	})
	if err != nil {
		panic(err)
	}
	b.names = slices.Sorted(maps.Keys(b.objects))
	return b
})

// edit changes bytes as edits say, six for each: where, how, and what.
func edit(b, edits []byte) []byte {
	b = slices.Clone(b)
	for ; len(edits) >= 6 && len(b) > 0; edits = edits[6:] {
		at := int(binary.LittleEndian.Uint32(edits)) % len(b)
		switch v := edits[5]; edits[4] % 4 {
		case 0:
			b[at] = v
		case 1:
			b[at] ^= 1 << (v % 8)
		case 2:
			b[at] += v
		case 3: // a number that is next to the limits
			n := []uint64{0, 1, 1<<31 - 1, 1<<32 - 1, 1 << 62, 1<<63 - 1, 1 << 63, 1<<64 - 1}[v%8]
			if at &^= 7; at+8 <= len(b) {
				binary.LittleEndian.PutUint64(b[at:], n)
			}
		}
	}
	return b
}

var (
	sumOf   = func(b ...[]byte) uint32 { return crc32.Checksum(slices.Concat(b...), castagnoli) }
	numbers = regexp.MustCompile(`-?\d+`)
)

// mutate edits an object and mends its checksums, as somebody would who means it.
func mutate(name string, b, edits []byte) []byte {
	le := binary.LittleEndian
	switch kind, _, _ := strings.Cut(name, "/"); kind {
	case "catalog":
		js := make([]byte, le.Uint32(b[8:]))
		if change.Decompress(change.CodecZstd, js, b[16:]) != nil {
			return b
		}
		return sealCatalog(b, editJSON(js, edits))
	case "map":
		if len(edits) > 4 && edits[4]&8 == 0 {
			b = editLeaf(b, edits)
		} else {
			b = edit(b, edits)
		}
		le.PutUint32(b[92:], sumOf(b[:92]))
		return mendTail(b, 48, 12, 40)
	case "pack":
		b = edit(b, edits)
		le.PutUint32(b[44:], sumOf(b[:44]))
		t := b[len(b)-32:]
		if at := le.Uint64(t); at < uint64(len(b)) {
			le.PutUint32(t[20:], sumOf(b[:at]))
		}
		return mendTail(b, 32, 16, 24)
	}
	b = edit(b, edits)
	mendEntries(b)
	le.PutUint32(b[124:], sumOf(b[:124]))
	t := b[len(b)-segment.TrailerBytes:]
	if at := le.Uint64(t); at < uint64(len(b)-segment.HeadBytes-segment.TrailerBytes) {
		copy(b[at:], b[:segment.HeadBytes])
		le.PutUint32(t[16:], sumOf(b[at+segment.HeadBytes:len(b)-segment.TrailerBytes]))
		le.PutUint32(t[24:], sumOf(t[:24]))
	}
	return b
}

// editLeaf edits what the first leaf of a map holds.
func editLeaf(b, edits []byte) []byte {
	le, t := binary.LittleEndian, len(b)-48
	at := le.Uint64(b[t:])
	line := b[at:][:32]
	stored := le.Uint32(line[16:])
	plain := make([]byte, le.Uint32(line[20:]))
	if change.Decompress(change.CodecZstd, plain, b[96:][:stored]) != nil {
		return b
	}
	plain = edit(plain, edits)
	out := change.Zstd(change.Quick, slices.Clone(b[:96]), plain)
	grown := uint64(len(out)) - 96 - uint64(stored)
	out = append(out, b[96+stored:]...)
	lines := out[at+grown : uint64(len(out))-48]
	for i := 32; i < len(lines); i += 32 {
		le.PutUint64(lines[i+8:], le.Uint64(lines[i+8:])+grown)
	}
	le.PutUint32(lines[16:], stored+uint32(grown))
	le.PutUint32(lines[28:], sumOf(plain))
	le.PutUint64(out[len(out)-48:], at+grown)
	return out
}

// mendTail mends a trailer whose first field says where the tables begin.
func mendTail(b []byte, size, tables, own int) []byte {
	le, t := binary.LittleEndian, b[len(b)-size:]
	if at := le.Uint64(t); at < uint64(len(b)-size) {
		le.PutUint32(t[tables:], sumOf(b[at:len(b)-size]))
	}
	le.PutUint32(t[own:], sumOf(t[:own]))
	return b
}

// mendEntries mends commands and frames.
func mendEntries(b []byte) {
	le, t := binary.LittleEndian, b[len(b)-segment.TrailerBytes:]
	at, n, streams := le.Uint64(t), uint64(le.Uint32(t[8:])), uint64(le.Uint32(t[12:]))
	at += segment.HeadBytes + streams*segment.StreamBytes
	for ; n > 0 && n < 1000 && at < uint64(len(b)-segment.EntryBytes); n, at = n-1, at+segment.EntryBytes {
		e := b[at:][:segment.EntryBytes]
		off, size := le.Uint64(e[8:]), uint64(le.Uint32(e[16:]))
		if off > uint64(len(b)) || size > uint64(len(b))-off {
			continue
		}
		body := b[off:][:size]
		switch {
		case segment.EntryKind(e[0]) == segment.CommandEntry && size > state.EnvelopeBytes:
			le.PutUint32(body[12:], sumOf(body[:12], body[16:]))
		case segment.EntryKind(e[0]) == segment.FoldEntry && size > segment.FoldHeaderBytes:
			sum := xxh3.Hash128(body[segment.FoldHeaderBytes:]).Bytes()
			copy(body[128:], sum[:])
			le.PutUint32(body[188:], sumOf(body[:188]))
		case segment.EntryKind(e[0]) == segment.FrameEntry && size > change.HeaderBytes:
			sum := xxh3.Hash128(body[change.HeaderBytes:]).Bytes()
			copy(body[120:], sum[:])
			le.PutUint32(body[156:], sumOf(body[:156]))
			hash := sha256.Sum256(body[:change.HeaderBytes])
			copy(e[56:72], hash[:16])
		}
	}
}

// editJSON puts other numbers in the place of some, or edits the text.
func editJSON(js, edits []byte) []byte {
	for ; len(edits) >= 6; edits = edits[6:] {
		if edits[4]%16 == 0 {
			js = edit(js, edits[:6])
			continue
		}
		found := numbers.FindAllIndex(js, -1)
		if len(found) == 0 {
			break
		}
		at := found[int(binary.LittleEndian.Uint32(edits))%len(found)]
		n := []string{"0", "-1", "1", "null", "4294967295", "9223372036854775807", "18446744073709551615",
			"{}"}[edits[5]%8]
		js = slices.Concat(js[:at[0]], []byte(n), js[at[1]:])
	}
	return js
}

func sealCatalog(b, js []byte) []byte {
	b = slices.Clone(b[:16])
	binary.LittleEndian.PutUint32(b[8:], uint32(len(js)))
	binary.LittleEndian.PutUint32(b[12:], sumOf(b[:12], js))
	return change.Zstd(change.Quick, b, js)
}

// discard takes what a restore writes.
type discard struct{}

func (discard) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }

var _ io.WriterAt = discard{}

// tryBucket runs all readers, and gc, over the bucket with one object changed: none
// panics, hangs or fills memory, and what one calls damaged it names.
func tryBucket(t *testing.T, which uint16, edits []byte) {
	b := bucket()
	name := b.names[int(which)%len(b.names)]
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := objstore.Open(ctx, "file:///b", objstore.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for n, body := range b.objects {
		if n == name {
			body = mutate(n, body, edits)
		}
		if err := s.Create(ctx, n, body); err != nil {
			t.Fatal(err)
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	note := func(verb string, err error) {
		t.Helper()
		if err == nil {
			return
		}
		if ctx.Err() != nil || fail.Is(err, fail.Internal) {
			t.Errorf("%s, %s changed: %v", verb, name, err)
		}
		if fail.Is(err, fail.Damaged) && !regexp.MustCompile(`(log|catalog|map|pack)/\d|volume`).
			MatchString(err.Error()) {
			t.Errorf("%s, %s changed: the error names nothing: %v", verb, name, err)
		}
	}
	for _, open := range []func(context.Context, objstore.Store, *twin.Reading) (*twin.Log, error){twin.Open,
		twin.OpenWhole} {
		l, err := open(ctx, s, nil)
		if note("open", err); err != nil {
			continue
		}
		note("open", l.Damage)
		for _, v := range l.State.Volumes {
			l.PointsOf(ctx, v)
			p, err := l.Resolve(ctx, v, "", b.now)
			if err == nil {
				_, err = l.Restore(ctx, p, discard{})
			}
			note("restore", err)
		}
	}
	_, err = twin.Examine(ctx, s, func(o *twin.Object) error { note("verify", o.Err); return nil })
	note("verify", err)
	_, err = Check(ctx, s)
	note("check", err)
	o := CollectOptions{Options: Options{Now: func() time.Time { return b.now }}, SparseBelow: DefaultSparseBelow}
	_, err = Collect(ctx, s, o)
	note("gc", err)
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<30 {
		t.Errorf("%s changed: %d MiB allocated", name, n>>20)
	}
}

// TestMutatedBucket tries some changes of each kind of object.
func TestMutatedBucket(t *testing.T) {
	seed := seed.New(t)
	r := rand.New(rand.NewPCG(seed, 0))
	names := bucket().names
	for range 80 {
		edits := make([]byte, 6*(1+r.IntN(3)))
		for i := range edits {
			edits[i] = byte(r.Uint32())
		}
		// As many catalogs, maps and packs as objects of the log, and their ends rather often.
		kind := []string{"log/", "catalog/", "map/", "pack/"}[r.IntN(4)]
		which := r.IntN(len(names))
		for !strings.HasPrefix(names[which], kind) {
			which = r.IntN(len(names))
		}
		if n := len(bucket().objects[names[which]]); r.IntN(2) == 0 && kind != "catalog/" {
			binary.LittleEndian.PutUint32(edits, uint32(max(0, n-1-r.IntN(400))))
		}
		tryBucket(t, uint16(which), edits)
		if t.Failed() {
			t.Fatalf("which %d, edits %x", which, edits)
		}
	}
}

// FuzzBucket changes one object of a whole bucket, with its checksums mended.
func FuzzBucket(f *testing.F) {
	for i := range bucket().names {
		f.Add(uint16(i), []byte{byte(i * 7), byte(i), 0, 0, byte(i), byte(i * 3)})
	}
	f.Fuzz(tryBucket)
}
