package agent

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// dirtyMap is a bitmap of bounded size: a large volume has larger granules.
type dirtyMap struct {
	granule int64
	words   []uint64
}

const (
	minGranuleBytes = 4096
	maxGranules     = 1 << 23 // a bitmap of 1 MiB
	// maxExtents bounds an answer: more are rounded to larger granules.
	maxExtents = 1 << 16
)

func newDirtyMap(sizeBytes int64) *dirtyMap {
	m := &dirtyMap{granule: minGranuleBytes}
	for (sizeBytes+m.granule-1)/m.granule > maxGranules {
		m.granule *= 2
	}
	m.words = make([]uint64, (sizeBytes/m.granule+64)/64)
	return m
}

// note marks a record of the volume, if it is later than after.
func (m *dirtyMap) note(v *VolumeConf, lsn, after uint64, volume uint32, kind change.Kind, off, n int64) {
	if lsn <= after || volume != v.Number || kind == change.Mark {
		return
	}
	for g, end := off/m.granule, (min(off+n, v.SizeBytes)+m.granule-1)/m.granule; g < end; g++ {
		m.words[g/64] |= 1 << (g % 64)
	}
}

// union adds what another map of the same volume has marked.
func (m *dirtyMap) union(o *dirtyMap, sizeBytes int64) {
	if o == nil {
		return
	}
	extents, _ := o.extents(sizeBytes)
	for _, e := range extents {
		for g, end := e.Off/m.granule, (e.Off+e.Len+m.granule-1)/m.granule; g < end; g++ {
			m.words[g/64] |= 1 << (g % 64)
		}
	}
}

// runs counts the marked ranges.
func (m *dirtyMap) runs() (n int) {
	last := uint64(0) // whether the granule before is marked
	for _, w := range m.words {
		n += bits.OnesCount64(w &^ (w<<1 | last))
		last = w >> 63
	}
	return n
}

// coarsen doubles the granule.
func (m *dirtyMap) coarsen() {
	words := make([]uint64, (len(m.words)+1)/2)
	for i, w := range m.words {
		for w != 0 {
			g := i*64 + bits.TrailingZeros64(w)
			words[g/128] |= 1 << (g / 2 % 64)
			w &= w - 1
		}
	}
	m.granule, m.words = 2*m.granule, words
}

// extents lists the marked ranges in order, and their bytes.
func (m *dirtyMap) extents(sizeBytes int64) (out []Extent, total int64) {
	for i, w := range m.words {
		for w != 0 {
			from := bits.TrailingZeros64(w)
			n := bits.TrailingZeros64(^(w >> from))
			if from+n >= 64 {
				w = 0
			} else {
				w &^= (1<<n - 1) << from
			}
			off := (int64(i)*64 + int64(from)) * m.granule
			size := min(int64(n)*m.granule, sizeBytes-off)
			total += size
			if k := len(out) - 1; k >= 0 && out[k].Off+out[k].Len == off {
				out[k].Len += size
			} else {
				out = append(out, Extent{off, size})
			}
		}
	}
	return out, total
}

func cloneMaps(maps map[uint32]*dirtyMap) map[uint32]*dirtyMap {
	out := make(map[uint32]*dirtyMap, len(maps))
	for n, m := range maps {
		out[n] = &dirtyMap{granule: m.granule, words: slices.Clone(m.words)}
	}
	return out
}

// marked is the bytes of the marked granules.
func (m *dirtyMap) marked() (n int64) {
	for _, w := range m.words {
		n += int64(bits.OnesCount64(w)) * m.granule
	}
	return n
}

// note marks a frame's extents in the maps of their volumes, by number.
func (a *Agent) note(maps map[uint32]*dirtyMap, f *change.Frame) {
	for i := range f.Records {
		r := &f.Records[i]
		v := a.numbered(r.Volume)
		if v == nil || r.Kind == change.Mark {
			continue
		}
		m := maps[r.Volume]
		if m == nil {
			m = newDirtyMap(v.conf.SizeBytes)
			maps[r.Volume] = m
		}
		m.note(&v.conf, math.MaxUint64, 0, r.Volume, r.Kind, r.Off, int64(r.Len))
	}
}

// numbered is volumeNumber for callers without the lock.
func (a *Agent) numbered(n uint32) *Volume {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.volumeNumber(n)
}

// volumeBits is a map on disk.
type volumeBits struct {
	Number       uint32 `json:"number"`
	GranuleBytes int64  `json:"granule_bytes"`
	Words        int    `json:"words"`
	Bits         []byte `json:"bits"` // words of 64 granules, little endian, zstd
}

var (
	bitsWriter, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	bitsReader, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(2*maxGranules))
)

func packMaps(maps map[uint32]*dirtyMap) (out []volumeBits) {
	for n, m := range maps {
		plain := make([]byte, 0, 8*len(m.words))
		for _, w := range m.words {
			plain = binary.LittleEndian.AppendUint64(plain, w)
		}
		out = append(out, volumeBits{n, m.granule, len(m.words), bitsWriter.EncodeAll(plain, nil)})
	}
	slices.SortFunc(out, func(a, b volumeBits) int { return int(int64(a.Number) - int64(b.Number)) })
	return out
}

// unpackMaps undoes packMaps; path is named in errors.
func unpackMaps(path string, in []volumeBits) (map[uint32]*dirtyMap, error) {
	maps := map[uint32]*dirtyMap{}
	for _, v := range in {
		b, err := bitsReader.DecodeAll(v.Bits, nil)
		if err != nil || len(b) != 8*v.Words || v.GranuleBytes < minGranuleBytes || v.Words > maxGranules/64+1 {
			return nil, badBits(path, fmt.Sprintf("bitmap of volume number %d", v.Number))
		}
		m := &dirtyMap{granule: v.GranuleBytes, words: make([]uint64, v.Words)}
		for i := range m.words {
			m.words[i] = binary.LittleEndian.Uint64(b[8*i:])
		}
		maps[v.Number] = m
	}
	return maps, nil
}

func badBits(path, why string) error {
	return fail.New(fail.Damaged, "load", path, why).WithHint("restore this host's volumes from the object store")
}
