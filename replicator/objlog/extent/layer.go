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
	layerMagic   = "PLXM"
	trailerMagic = "PLXN"
	// LayerVersion is the version that this build writes and reads.
	LayerVersion = 1
	// LayerHeadBytes and LayerTrailerBytes begin and end a layer's object.
	LayerHeadBytes    = 96
	LayerTrailerBytes = 48
	layerIndexBytes   = 32

	// partBytes is the size at which a layer goes on in another object, MaxPartBytes
	// what a reader takes.
	partBytes    = 32 << 20
	MaxPartBytes = 256 << 20
	// maxLeafBytes bounds one leaf, compressed or not.
	maxLeafBytes = 64 << 20

	layerTailBytes = 128 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// LayerHead begins an object with extents of one volume, those that changed in a
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
type LayerHead struct {
	Whole     bool            `json:"whole"`
	Volume    uint32          `json:"volume"`
	Part      uint32          `json:"part"`
	Journal   uuid.UUID       `json:"journal"`
	Stream    change.StreamID `json:"stream"`
	From      uint64          `json:"from"`
	To        uint64          `json:"to"`
	LastWrite int64           `json:"last_write"` // ns since 1970
}

func (h *LayerHead) put(b []byte) {
	b = b[:LayerHeadBytes]
	clear(b)
	le := binary.LittleEndian
	copy(b, layerMagic)
	le.PutUint16(b[4:], LayerVersion)
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

func badLayer(at int64, format string, args ...any) error {
	return fail.New(fail.Damaged, "decode map", fmt.Sprintf("at byte %d", at), fmt.Sprintf(format, args...))
}

// ParseLayerHead decodes and checks a head. Errors are fail.Damaged or
// fail.Unsupported.
func ParseLayerHead(b []byte) (h LayerHead, err error) {
	le := binary.LittleEndian
	switch {
	case len(b) < LayerHeadBytes:
		return h, badLayer(0, "head cut short at %d bytes", len(b))
	case string(b[:4]) != layerMagic:
		return h, badLayer(0, "not a map: magic %q", b[:4])
	case crc32.Checksum(b[:92], castagnoli) != le.Uint32(b[92:]):
		return h, badLayer(92, "head checksum does not match")
	case le.Uint16(b[4:]) != LayerVersion:
		return h, fail.New(fail.Unsupported, "decode map", "", fmt.Sprintf("version %d; this build reads %d", le.Uint16(b[4:]), LayerVersion)).
			WithHint("use a pollux version that knows this format")
	}
	h = LayerHead{Whole: b[6]&1 != 0, Volume: le.Uint32(b[8:]), Part: le.Uint32(b[12:]), From: le.Uint64(b[48:]), To: le.Uint64(b[56:]), LastWrite: int64(le.Uint64(b[64:]))}
	copy(h.Journal[:], b[16:])
	copy(h.Stream[:], b[32:])
	return h, nil
}

// Part is one object of a layer, as a catalog refers to it.
type Part struct {
	Name      string `json:"name"`
	Bytes     int64  `json:"bytes"`
	FirstLeaf int64  `json:"first_leaf"`
	LastLeaf  int64  `json:"last_leaf"`
	Extents   int64  `json:"extents"`
	LiveBytes int64  `json:"live_bytes"`
}

// PartBuilder collects leaves, in order, into objects.
type PartBuilder struct {
	Head  LayerHead
	Put   func(ctx context.Context, part *Part, body []byte) error // names it and stores it
	Parts []Part

	body, index, scratch []byte
	cur                  Part
}

// Add takes the next leaf; one without extents is left out.
func (p *PartBuilder) Add(ctx context.Context, leaf int64, extents []Extent) error {
	if len(extents) == 0 {
		return nil
	}
	if p.scratch = encodeLeaf(p.scratch[:0], leaf, extents); len(extents) > maxLeafExtents || len(p.scratch) > maxLeafBytes {
		return fail.New(fail.Unsupported, "write map", fmt.Sprintf("volume number %d, the %d MiB at byte %d", p.Head.Volume, LeafBytes>>20, leaf*LeafBytes),
			fmt.Sprintf("%d separate runs: more than a map can hold", len(extents))).WithHint("write that part of the volume anew in larger pieces")
	}
	if len(p.body) == 0 {
		p.body = append(p.body, make([]byte, LayerHeadBytes)...)
		p.Head.Part = uint32(len(p.Parts))
		p.Head.put(p.body)
		p.index, p.cur = p.index[:0], Part{FirstLeaf: leaf}
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
	if len(p.body) < partBytes {
		return nil
	}
	return p.Finish(ctx)
}

// Finish stores what has been collected; without anything there is no object.
func (p *PartBuilder) Finish(ctx context.Context) error {
	if len(p.body) == 0 {
		return nil
	}
	le, at := binary.LittleEndian, len(p.body)
	p.body = append(p.body, p.index...)
	t := len(p.body)
	p.body = append(p.body, make([]byte, LayerTrailerBytes)...)
	b := p.body[t:]
	le.PutUint64(b, uint64(at))
	le.PutUint32(b[8:], uint32(len(p.index)/layerIndexBytes))
	le.PutUint32(b[12:], crc32.Checksum(p.index, castagnoli))
	le.PutUint64(b[16:], uint64(p.cur.Extents))
	le.PutUint64(b[24:], uint64(p.cur.LiveBytes))
	le.PutUint32(b[40:], crc32.Checksum(b[:40], castagnoli))
	copy(b[44:], trailerMagic)
	p.cur.Bytes = int64(len(p.body))
	if err := p.Put(ctx, &p.cur, p.body); err != nil {
		return err
	}
	p.Parts = append(p.Parts, p.cur)
	p.body = p.body[:0]
	return nil
}

// leafRef is a line of a part's index.
type leafRef struct {
	leaf          int64
	offset        int64
	stored, plain uint32
	extents, crc  uint32
}

// parseLayerIndex decodes and checks the index in the last bytes of an object of size
// bytes. need says how many of them it takes, where they do not suffice.
func parseLayerIndex(tail []byte, size int64) (refs []leafRef, need int64, err error) {
	le := binary.LittleEndian
	if len(tail) < LayerTrailerBytes || size > MaxPartBytes {
		return nil, 0, badLayer(0, "object of %d bytes", size)
	}
	b, at := tail[len(tail)-LayerTrailerBytes:], size-LayerTrailerBytes
	if string(b[44:]) != trailerMagic || crc32.Checksum(b[:40], castagnoli) != le.Uint32(b[40:]) {
		return nil, 0, badLayer(at, "no trailer: the object is cut short or not a map")
	}
	off, n := int64(le.Uint64(b)), int64(le.Uint32(b[8:]))
	if off < LayerHeadBytes || off+n*layerIndexBytes != at {
		return nil, 0, badLayer(at, "an index of %d leaves at %d does not fit the object's %d bytes", n, off, size)
	}
	if need = size - off; need > int64(len(tail)) {
		return nil, need, nil
	}
	b = tail[int64(len(tail))-need:][:n*layerIndexBytes]
	if crc32.Checksum(b, castagnoli) != le.Uint32(tail[len(tail)-LayerTrailerBytes+12:]) {
		return nil, 0, badLayer(off, "index checksum does not match")
	}
	refs = make([]leafRef, n)
	next := int64(LayerHeadBytes)
	for i := range refs {
		r := &refs[i]
		*r = leafRef{int64(le.Uint64(b)), int64(le.Uint64(b[8:])), le.Uint32(b[16:]), le.Uint32(b[20:]), le.Uint32(b[24:]), le.Uint32(b[28:])}
		if r.offset != next || r.plain > maxLeafBytes || r.stored > r.plain || r.leaf < 0 || r.leaf > change.MaxOffset/LeafBytes || (i > 0 && r.leaf <= refs[i-1].leaf) {
			return nil, 0, badLayer(off+int64(i)*layerIndexBytes, "leaf %d of %d bytes at %d", r.leaf, r.stored, r.offset)
		}
		next += int64(r.stored)
		b = b[layerIndexBytes:]
	}
	if next != off {
		return nil, 0, badLayer(off, "leaves end at byte %d", next)
	}
	return refs, need, nil
}

func (r *leafRef) open(b []byte) ([]Extent, error) {
	plain := make([]byte, r.plain)
	if len(b) != int(r.stored) {
		return nil, badLayer(r.offset, "leaf cut short at %d of %d bytes", len(b), r.stored)
	}
	if err := change.Decompress(change.CodecZstd, plain, b); err != nil {
		return nil, badLayer(r.offset, "leaf does not decompress: %v", err)
	}
	if crc32.Checksum(plain, castagnoli) != r.crc {
		return nil, badLayer(r.offset, "leaf checksum does not match")
	}
	out, err := decodeLeaf(plain, r.leaf)
	if err == nil && len(out) != int(r.extents) {
		err = badLayer(r.offset, "%d extents, its index says %d", len(out), r.extents)
	}
	return out, err
}

// WalkLayer checks a whole object of a layer and calls fn for its leaves in order.
func WalkLayer(obj []byte, fn func(leaf int64, extents []Extent) error) (LayerHead, error) {
	h, err := ParseLayerHead(obj)
	if err != nil {
		return h, err
	}
	refs, need, err := parseLayerIndex(obj, int64(len(obj)))
	if err == nil && need > int64(len(obj)) {
		err = badLayer(0, "index of %d bytes", need)
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

// Layer reads the parts of a layer on demand. Several goroutines may use it.
type Layer struct {
	Whole bool
	Parts []Part

	store objstore.Store
	mu    sync.Mutex
	refs  [][]leafRef // by part, nil: not read yet, or not kept
	kept  int         // of all of them
}

// OpenLayer prepares a layer; nothing is read yet.
func OpenLayer(s objstore.Store, whole bool, parts []Part) *Layer {
	return &Layer{Whole: whole, Parts: parts, store: s, refs: make([][]leafRef, len(parts))}
}

// maxLayerRefs is how many lines of its parts' indexes a layer keeps, but for those of
// one larger part: 40 bytes each.
const maxLayerRefs = 1 << 16

func (l *Layer) index(ctx context.Context, i int) (refs []leafRef, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refs[i] != nil {
		return l.refs[i], nil
	}
	err = objstore.Reread(func() error {
		refs, err = l.readIndex(ctx, &l.Parts[i])
		return err
	})
	if err != nil {
		return nil, err
	}
	if l.kept += len(refs); l.kept > maxLayerRefs {
		clear(l.refs)
		l.kept = len(refs)
	}
	l.refs[i] = refs
	return refs, nil
}

func (l *Layer) readIndex(ctx context.Context, p *Part) ([]leafRef, error) {
	at := func(err error) error { return fail.At("read", l.store.URL()+"/"+p.Name, err) }
	tail, err := l.store.Read(ctx, p.Name, -layerTailBytes, -1, nil)
	if err != nil {
		return nil, gone(err)
	}
	refs, need, err := parseLayerIndex(tail, p.Bytes)
	if err == nil && refs == nil && need > 0 {
		if tail, err = l.store.Read(ctx, p.Name, -need, -1, nil); err != nil {
			return nil, err
		}
		if refs, need, err = parseLayerIndex(tail, p.Bytes); err == nil && need > int64(len(tail)) {
			err = badLayer(0, "cut short")
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
		Hint: "garbage collection may have replaced it just now: try again; if it stays away, --no-catalog reads the log from its beginning, where that is still there"}
}

// part is the place of the first part that ends at or after a leaf.
func (l *Layer) part(leaf int64) int {
	return sort.Search(len(l.Parts), func(i int) bool { return l.Parts[i].LastLeaf >= leaf })
}

// Leaf returns a leaf's extents in order; none where it has none.
func (l *Layer) Leaf(ctx context.Context, leaf int64) ([]Extent, error) {
	i := l.part(leaf)
	if i == len(l.Parts) || l.Parts[i].FirstLeaf > leaf {
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
		b, err := l.store.Read(ctx, l.Parts[i].Name, r.offset, int64(r.stored), nil)
		if err != nil {
			return gone(err)
		}
		out, err = r.open(b)
		return fail.At("read", l.store.URL()+"/"+l.Parts[i].Name, err)
	})
	return out, err
}

// Next returns the first leaf at or after one that has extents here.
func (l *Layer) Next(ctx context.Context, from int64) (int64, bool, error) {
	for i := l.part(from); i < len(l.Parts); i++ {
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
