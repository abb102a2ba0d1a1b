package extent

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"sort"
	"sync"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

const (
	mapMagic     = "PLXM"
	trailerMagic = "PLXN"
	// MapVersion is the version that this build writes and reads.
	MapVersion = 1
	// MapHeadBytes and MapTrailerBytes begin and end a map object.
	MapHeadBytes    = 96
	MapTrailerBytes = 48
	mapIndexBytes   = 32

	// mapBytes is the size at which a layer goes on in another object, MaxMapBytes
	// what a reader takes.
	mapBytes    = 32 << 20
	MaxMapBytes = 256 << 20
	// maxLeafBytes bounds one leaf, compressed or not.
	maxLeafBytes = 64 << 20

	mapTailBytes = 128 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// MapHead begins a map object: one with extents of one volume, those that changed in a
// range of LSNs, or all that it had at the range's end:
//
//	 0  4 magic "PLXM"      48  8 from LSN (what changed after it)
//	 4  2 version           56  8 to LSN
//	 6  2 flags: 1 whole    64  8 time of the last write, ns
//	 8  4 volume            72 20 reserved
//	12  4 part, from 0      92  4 CRC-32C of bytes 0..91
//	16 16 journal UUID
//	32 16 stream UUID
//
// Behind it: leaves one by one, compressed with zstd; an index of 32 bytes each
//
//	 0 8 leaf   8 8 offset   16 4 stored bytes   20 4 plain bytes   24 4 extents
//	28 4 CRC-32C of the plain bytes
//
// and the trailer
//
//	 0 8 offset of the index   8 4 leaves   12 4 CRC-32C of the index
//	16 8 extents   24 8 bytes of the volume that have data   32 8 reserved
//	40 4 CRC-32C of bytes 0..39   44 4 magic "PLXN"
type MapHead struct {
	Whole     bool            `json:"whole"`
	Volume    uint32          `json:"volume"`
	Part      uint32          `json:"part"`
	Journal   uuid.UUID       `json:"journal"`
	Stream    change.StreamID `json:"stream"`
	From      uint64          `json:"from"`
	To        uint64          `json:"to"`
	LastWrite int64           `json:"last_write"` // ns since 1970
}

func (h *MapHead) put(b []byte) {
	b = b[:MapHeadBytes]
	clear(b)
	le := binary.LittleEndian
	copy(b, mapMagic)
	le.PutUint16(b[4:], MapVersion)
	if h.Whole {
		b[6] = 1
	}
	le.PutUint32(b[8:], h.Volume)
	le.PutUint32(b[12:], h.Part)
	copy(b[16:], h.Journal[:])
	copy(b[32:], h.Stream[:])
	le.PutUint64(b[48:], h.From)
	le.PutUint64(b[56:], h.To)
	le.PutUint64(b[64:], uint64(h.LastWrite))
	le.PutUint32(b[92:], crc32.Checksum(b[:92], castagnoli))
}

func badMap(at int64, format string, args ...any) error {
	return fail.New(fail.Damaged, "decode map", fmt.Sprintf("at byte %d", at), fmt.Sprintf(format, args...))
}

// ParseMapHead decodes and checks a head. Errors are fail.Damaged or
// fail.Unsupported.
func ParseMapHead(b []byte) (h MapHead, err error) {
	le := binary.LittleEndian
	switch {
	case len(b) < MapHeadBytes:
		return h, badMap(0, "head cut short at %d bytes", len(b))
	case string(b[:4]) != mapMagic:
		return h, badMap(0, "not a map: magic %q", b[:4])
	case crc32.Checksum(b[:92], castagnoli) != le.Uint32(b[92:]):
		return h, badMap(92, "head checksum does not match")
	case le.Uint16(b[4:]) != MapVersion:
		return h, fail.New(fail.Unsupported, "decode map", "",
			fmt.Sprintf("version %d; this build reads %d", le.Uint16(b[4:]), MapVersion)).
			WithHint("use a pollux version that knows this format")
	}
	h = MapHead{Whole: b[6]&1 != 0, Volume: le.Uint32(b[8:]), Part: le.Uint32(b[12:]), From: le.Uint64(b[48:]),
		To: le.Uint64(b[56:]), LastWrite: int64(le.Uint64(b[64:]))}
	copy(h.Journal[:], b[16:])
	copy(h.Stream[:], b[32:])
	return h, nil
}

// MapObject is an object below map/, as a catalog refers to it: the leaves of a layer, or
// some of them in order.
type MapObject struct {
	Name      string `json:"name"`
	Bytes     int64  `json:"bytes"`
	FirstLeaf int64  `json:"first_leaf"`
	LastLeaf  int64  `json:"last_leaf"`
	Extents   int64  `json:"extents"`
	LiveBytes int64  `json:"live_bytes"`
}

// MapBuilder collects leaves, in order, into objects.
type MapBuilder struct {
	Head    MapHead
	Put     func(ctx context.Context, o *MapObject, body []byte) error // names it and stores it
	Objects []MapObject

	body, index, scratch []byte
	cur                  MapObject
}

// Add takes the next leaf; one without extents is left out.
func (p *MapBuilder) Add(ctx context.Context, leaf int64, extents []Extent) error {
	if len(extents) == 0 {
		return nil
	}
	if p.scratch = encodeLeaf(p.scratch[:0], leaf, extents); len(extents) > maxLeafExtents ||
		len(p.scratch) > maxLeafBytes {
		return fail.New(fail.Unsupported, "write map",
			fmt.Sprintf("volume number %d, the %d MiB at byte %d", p.Head.Volume, LeafBytes>>20, leaf*LeafBytes),
			fmt.Sprintf("%d separate runs: more than a map can hold", len(extents))).
			WithHint("write that part of the volume anew in larger pieces")
	}
	if len(p.body) == 0 {
		p.body = append(p.body, make([]byte, MapHeadBytes)...)
		p.Head.Part = uint32(len(p.Objects))
		p.Head.put(p.body)
		p.index, p.cur = p.index[:0], MapObject{FirstLeaf: leaf}
	}
	at := len(p.body)
	p.body = change.Zstd(change.Quick, p.body, p.scratch)
	le := binary.LittleEndian
	p.index = le.AppendUint64(p.index, uint64(leaf))
	p.index = le.AppendUint64(p.index, uint64(at))
	p.index = le.AppendUint32(p.index, uint32(len(p.body)-at))
	p.index = le.AppendUint32(p.index, uint32(len(p.scratch)))
	p.index = le.AppendUint32(p.index, uint32(len(extents)))
	p.index = le.AppendUint32(p.index, crc32.Checksum(p.scratch, castagnoli))
	p.cur.LastLeaf = leaf
	p.cur.Extents += int64(len(extents))
	for i := range extents {
		if !extents[i].Zeros() {
			p.cur.LiveBytes += extents[i].Len
		}
	}
	if len(p.body) < mapBytes {
		return nil
	}
	return p.Finish(ctx)
}

// Finish stores what has been collected; without anything there is no object.
func (p *MapBuilder) Finish(ctx context.Context) error {
	if len(p.body) == 0 {
		return nil
	}
	le, at := binary.LittleEndian, len(p.body)
	p.body = append(p.body, p.index...)
	t := len(p.body)
	p.body = append(p.body, make([]byte, MapTrailerBytes)...)
	b := p.body[t:]
	le.PutUint64(b, uint64(at))
	le.PutUint32(b[8:], uint32(len(p.index)/mapIndexBytes))
	le.PutUint32(b[12:], crc32.Checksum(p.index, castagnoli))
	le.PutUint64(b[16:], uint64(p.cur.Extents))
	le.PutUint64(b[24:], uint64(p.cur.LiveBytes))
	le.PutUint32(b[40:], crc32.Checksum(b[:40], castagnoli))
	copy(b[44:], trailerMagic)
	p.cur.Bytes = int64(len(p.body))
	if err := p.Put(ctx, &p.cur, p.body); err != nil {
		return err
	}
	p.Objects = append(p.Objects, p.cur)
	p.body = p.body[:0]
	return nil
}

// leafRef is a line of a map object's index.
type leafRef struct {
	leaf          int64
	offset        int64
	stored, plain uint32
	extents, crc  uint32
}

// parseMapIndex decodes and checks the index in the last bytes of an object of size
// bytes. need says how many of them it takes, where they do not suffice.
func parseMapIndex(tail []byte, size int64) (refs []leafRef, need int64, err error) {
	le := binary.LittleEndian
	if len(tail) < MapTrailerBytes || size > MaxMapBytes {
		return nil, 0, badMap(0, "object of %d bytes", size)
	}
	b, at := tail[len(tail)-MapTrailerBytes:], size-MapTrailerBytes
	if string(b[44:]) != trailerMagic || crc32.Checksum(b[:40], castagnoli) != le.Uint32(b[40:]) {
		return nil, 0, badMap(at, "no trailer: the object is cut short or not a map")
	}
	off, n := int64(le.Uint64(b)), int64(le.Uint32(b[8:]))
	if off < MapHeadBytes || off+n*mapIndexBytes != at {
		return nil, 0, badMap(at, "an index of %d leaves at %d does not fit the object's %d bytes", n, off, size)
	}
	if need = size - off; need > int64(len(tail)) {
		return nil, need, nil
	}
	b = tail[int64(len(tail))-need:][:n*mapIndexBytes]
	if crc32.Checksum(b, castagnoli) != le.Uint32(tail[len(tail)-MapTrailerBytes+12:]) {
		return nil, 0, badMap(off, "index checksum does not match")
	}
	refs = make([]leafRef, n)
	next := int64(MapHeadBytes)
	for i := range refs {
		r := &refs[i]
		*r = leafRef{int64(le.Uint64(b)), int64(le.Uint64(b[8:])), le.Uint32(b[16:]), le.Uint32(b[20:]),
			le.Uint32(b[24:]), le.Uint32(b[28:])}
		if r.offset != next || r.plain > maxLeafBytes || r.stored > r.plain || r.leaf < 0 ||
			r.leaf > change.MaxOffset/LeafBytes || (i > 0 && r.leaf <= refs[i-1].leaf) {
			return nil, 0, badMap(off+int64(i)*mapIndexBytes, "leaf %d of %d bytes at %d", r.leaf, r.stored, r.offset)
		}
		next += int64(r.stored)
		b = b[mapIndexBytes:]
	}
	if next != off {
		return nil, 0, badMap(off, "leaves end at byte %d", next)
	}
	return refs, need, nil
}

func (r *leafRef) open(b []byte) ([]Extent, error) {
	plain := make([]byte, r.plain)
	if len(b) != int(r.stored) {
		return nil, badMap(r.offset, "leaf cut short at %d of %d bytes", len(b), r.stored)
	}
	if err := change.Decompress(change.CodecZstd, plain, b); err != nil {
		return nil, badMap(r.offset, "leaf does not decompress: %v", err)
	}
	if crc32.Checksum(plain, castagnoli) != r.crc {
		return nil, badMap(r.offset, "leaf checksum does not match")
	}
	out, err := decodeLeaf(plain, r.leaf)
	if err == nil && len(out) != int(r.extents) {
		err = badMap(r.offset, "%d extents, its index says %d", len(out), r.extents)
	}
	return out, err
}

// WalkMap checks a whole map object and calls fn for its leaves in order.
func WalkMap(obj []byte, fn func(leaf int64, extents []Extent) error) (MapHead, error) {
	h, err := ParseMapHead(obj)
	if err != nil {
		return h, err
	}
	refs, need, err := parseMapIndex(obj, int64(len(obj)))
	if err == nil && need > int64(len(obj)) {
		err = badMap(0, "index of %d bytes", need)
	}
	if err != nil {
		return h, err
	}
	for i := range refs {
		r := &refs[i]
		extents, err := r.open(obj[r.offset:][:r.stored])
		if err == nil {
			err = fn(r.leaf, extents)
		}
		if err != nil {
			return h, err
		}
	}
	return h, nil
}

// Layer reads the map objects of a layer on demand. Several goroutines may use it.
type Layer struct {
	Whole   bool
	Objects []MapObject

	store objstore.Store
	mu    sync.Mutex
	refs  [][]leafRef // by object, nil: not read yet, or not kept
	held  int         // of all of them
}

// OpenLayer prepares a layer; nothing is read yet.
func OpenLayer(s objstore.Store, whole bool, objects []MapObject) *Layer {
	return &Layer{Whole: whole, Objects: objects, store: s, refs: make([][]leafRef, len(objects))}
}

// maxLayerRefs is how many lines of its objects' indexes a layer keeps, but for those of
// one larger object: 40 bytes each.
const maxLayerRefs = 1 << 16

func (l *Layer) index(ctx context.Context, i int) (refs []leafRef, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refs[i] != nil {
		return l.refs[i], nil
	}
	err = objstore.Reread(func() error {
		refs, err = l.readIndex(ctx, &l.Objects[i])
		return err
	})
	if err != nil {
		return nil, err
	}
	if l.held += len(refs); l.held > maxLayerRefs {
		clear(l.refs)
		l.held = len(refs)
	}
	l.refs[i] = refs
	return refs, nil
}

func (l *Layer) readIndex(ctx context.Context, p *MapObject) ([]leafRef, error) {
	at := func(err error) error { return fail.At("read", l.store.URL()+"/"+p.Name, err) }
	tail, err := l.store.Read(ctx, p.Name, -mapTailBytes, -1, nil)
	if err != nil {
		return nil, gone(err)
	}
	refs, need, err := parseMapIndex(tail, p.Bytes)
	if err == nil && refs == nil && need > 0 {
		if tail, err = l.store.Read(ctx, p.Name, -need, -1, nil); err != nil {
			return nil, err
		}
		if refs, need, err = parseMapIndex(tail, p.Bytes); err == nil && need > int64(len(tail)) {
			err = badMap(0, "cut short")
		}
	}
	return refs, at(err)
}

// gone says what to do about a map that is not there.
func gone(err error) error {
	if !fail.Is(err, fail.NotFound) {
		return err
	}
	return &fail.Error{Kind: fail.NotFound, Op: "read", Object: "map", Err: err,
		Hint: "garbage collection may have replaced it just now: try again; if it stays away, --no-catalog reads " +
			"the log from its beginning, where that is still there"}
}

// object is the place of the first object that ends at or after a leaf.
func (l *Layer) object(leaf int64) int {
	return sort.Search(len(l.Objects), func(i int) bool { return l.Objects[i].LastLeaf >= leaf })
}

// Leaf returns a leaf's extents in order; none where it has none.
func (l *Layer) Leaf(ctx context.Context, leaf int64) ([]Extent, error) {
	i := l.object(leaf)
	if i == len(l.Objects) || l.Objects[i].FirstLeaf > leaf {
		return nil, nil
	}
	refs, err := l.index(ctx, i)
	if err != nil {
		return nil, err
	}
	k, ok := slices.BinarySearchFunc(refs, leaf, func(r leafRef, leaf int64) int { return int(r.leaf - leaf) })
	if !ok {
		return nil, nil
	}
	r := &refs[k]
	var out []Extent
	err = objstore.Reread(func() error {
		b, err := l.store.Read(ctx, l.Objects[i].Name, r.offset, int64(r.stored), nil)
		if err != nil {
			return gone(err)
		}
		out, err = r.open(b)
		return fail.At("read", l.store.URL()+"/"+l.Objects[i].Name, err)
	})
	return out, err
}

// Next returns the first leaf at or after one that has extents here.
func (l *Layer) Next(ctx context.Context, from int64) (int64, bool, error) {
	for i := l.object(from); i < len(l.Objects); i++ {
		refs, err := l.index(ctx, i)
		if err != nil {
			return 0, false, err
		}
		if k := sort.Search(len(refs), func(k int) bool { return refs[k].leaf >= from }); k < len(refs) {
			return refs[k].leaf, true, nil
		}
	}
	return 0, false, nil
}
