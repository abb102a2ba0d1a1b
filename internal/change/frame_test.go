package change

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/xxh3"

	"github.com/pollux-dr/pollux/internal/fail"
)

var testStream = uuid.MustParse("01234567-89ab-cdef-0123-456789abcdef")

// testBytes compresses by half: runs of random and of equal bytes.
func testBytes(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		if i/512%2 == 0 {
			b[i] = byte(r.Uint32())
		}
	}
	return b
}

func testHeader() Header {
	return Header{Stream: testStream, FirstLSN: 7, FirstTime: 1_000, LastTime: 2_000, Epoch: 3, Lease: 4,
		Prev: Hash{9, 8, 7}}
}

// testChanges has every kind of record, and data that spans blocks.
func testChanges(bytes int) []Change {
	b := testBytes(1, bytes)
	return []Change{
		{Kind: Write, Volume: 2, Off: 4096, Len: uint32(len(b)), Data: [][]byte{b[:len(b)/3], b[len(b)/3:]}},
		{Kind: Zero, Volume: 2, Off: 1 << 40, Len: 1 << 30},
		{Kind: Trim, Volume: 3, Off: 512, Len: 512},
		{Kind: Mark, Data: [][]byte{[]byte("before-upgrade")}},
	}
}

func encode(codec Codec, changes []Change) []byte {
	h := testHeader()
	e := Encoder{Codec: codec}
	b, _ := e.Encode(&h, changes)
	return bytes.Clone(b)
}

// content is what a frame says, to be compared.
type content struct {
	Header  Header
	Hash    Hash
	Records []Record
	Data    [][]byte
}

func decode(b []byte) (c content, err error) {
	f, err := Parse(b)
	if err != nil {
		return c, err
	}
	plain, err := f.Plain(nil)
	if err != nil {
		return c, err
	}
	c = content{Header: f.Header, Hash: f.Hash, Records: f.Records}
	for i := range f.Records {
		c.Data = append(c.Data, bytes.Clone(f.Data(i, plain)))
	}
	return c, nil
}

func TestFrameRoundTrip(t *testing.T) {
	for _, codec := range []Codec{CodecNone, CodecS2} {
		for _, size := range []int{1, 511, 4096, BlockBytes - 1, BlockBytes, BlockBytes + 1, 3*BlockBytes + 5,
			MaxRecordBytes} {
			changes := testChanges(size)
			c, err := decode(encode(codec, changes))
			if err != nil {
				t.Fatalf("codec %d, %d bytes: %v", codec, size, err)
			}
			if c.Header.FirstLSN != 7 || c.Header.LastLSN != 10 || c.Header.Flags != FlagMarks || c.Header.Epoch != 3 ||
				c.Header.Lease != 4 || c.Header.Prev != (Hash{9, 8, 7}) || c.Header.Stream != testStream {
				t.Errorf("header %+v", c.Header)
			}
			for i, ch := range changes {
				r := c.Records[i]
				if r.LSN != 7+uint64(i) || r.Kind != ch.Kind || r.Volume != ch.Volume || r.Off != ch.Off ||
					r.Len != ch.Len {
					t.Errorf("record %d: %+v of %+v", i, r, ch)
				}
				if !bytes.Equal(c.Data[i], bytes.Join(ch.Data, nil)) {
					t.Errorf("codec %d, %d bytes: record %d has other data", codec, size, i)
				}
			}
		}
	}
}

// TestFrameReuse: Encoder and Frame keep their memory from one frame to the next.
func TestFrameReuse(t *testing.T) {
	e := Encoder{Codec: CodecS2}
	var f Frame
	var plain []byte
	at := Point{}
	for i := range 20 {
		data := testBytes(uint64(i), 1+i*9000)
		h := Header{Stream: testStream, FirstLSN: at.LSN + 1, Prev: at.Hash}
		b, hash := e.Encode(&h, []Change{{Kind: Write, Len: uint32(len(data)), Data: [][]byte{data}}})
		if err := f.Reset(b); err != nil {
			t.Fatal(err)
		}
		if err := f.Follows(at); err != nil {
			t.Fatal(err)
		}
		if f.Hash != hash || len(b) != h.FrameBytes() {
			t.Fatalf("hash %v or size differs", hash)
		}
		var err error
		if plain, err = f.Plain(plain); err != nil || !bytes.Equal(f.Data(0, plain), data) {
			t.Fatalf("frame %d: %v", i, err)
		}
		at = Point{LSN: h.LastLSN, Hash: hash}
	}
}

func TestFollows(t *testing.T) {
	h := Header{FirstLSN: 5, Prev: Hash{1}}
	for _, tt := range []struct {
		at Point
		ok bool
	}{{Point{4, Hash{1}}, true}, {Point{4, Hash{2}}, false}, {Point{5, Hash{1}}, false}, {Point{3, Hash{1}}, false},
		{Point{}, false}} {
		if err := h.Follows(tt.at); (err == nil) != tt.ok || (err != nil && !fail.Is(err, fail.Damaged)) {
			t.Errorf("after %v: %v", tt.at, err)
		}
	}
}

// TestFrameFlips damages every byte of small frames, each bit of it once.
func TestFrameFlips(t *testing.T) {
	for _, codec := range []Codec{CodecNone, CodecS2} {
		orig := encode(codec, testChanges(1500))
		for off := range orig {
			for bit := range 8 {
				b := bytes.Clone(orig)
				b[off] ^= 1 << bit
				if _, err := decode(b); !fail.Is(err, fail.Damaged) || !strings.Contains(err.Error(), "at byte") {
					t.Fatalf("codec %d, byte %d bit %d: %v", codec, off, bit, err)
				}
			}
		}
	}
}

// TestFrameCuts: a frame that is too short or too long is refused.
func TestFrameCuts(t *testing.T) {
	orig := encode(CodecS2, testChanges(1500))
	for n := range orig {
		if _, err := decode(orig[:n:n]); !fail.Is(err, fail.Damaged) {
			t.Fatalf("%d of %d bytes: %v", n, len(orig), err)
		}
	}
	if _, err := decode(append(bytes.Clone(orig), 0)); !fail.Is(err, fail.Damaged) {
		t.Errorf("one byte more: %v", err)
	}
}

// reseal makes the checksums of a changed frame right again: what is then
// refused is refused for what it says.
func reseal(b []byte) {
	digest := xxh3.Hash128(b[HeaderBytes:]).Bytes()
	copy(b[120:], digest[:])
	binary.LittleEndian.PutUint32(b[156:], crc32.Checksum(b[:156], castagnoli))
}

func TestFrameRefuses(t *testing.T) {
	le := binary.LittleEndian
	for _, tt := range []struct {
		name string
		do   func(b []byte)
		kind fail.Kind
		text string
	}{
		{"magic", func(b []byte) { b[0] = 'Q' }, fail.Damaged, "at byte 0"},
		{"version", func(b []byte) { b[4] = 3 }, fail.Unsupported, "version 3"},
		{"header bytes", func(b []byte) { b[6] = 200 }, fail.Damaged, "at byte 6"},
		{"codec", func(b []byte) { b[8] = 77 }, fail.Unsupported, "codec 77"},
		{"cipher", func(b []byte) { b[9], b[12] = 5, 6 }, fail.Unsupported, "cipher 5, key 6"},
		{"no LSN", func(b []byte) { le.PutUint64(b[32:], 0); le.PutUint64(b[40:], 3) }, fail.Damaged, "at byte 32"},
		{"LSN range", func(b []byte) { le.PutUint64(b[40:], 11) }, fail.Damaged, "at byte 32"},
		{"LSN overflow", func(b []byte) {
			le.PutUint64(b[32:], 1<<64-2)
			le.PutUint64(b[40:], 1)
		}, fail.Damaged, "at byte 32"},
		{"no records", func(b []byte) { le.PutUint32(b[96:], 0) }, fail.Damaged, "at byte 96"},
		{"records", func(b []byte) { le.PutUint32(b[96:], MaxRecords+1) }, fail.Damaged, "at byte 96"},
		{"blocks", func(b []byte) { le.PutUint32(b[100:], 9) }, fail.Damaged, "at byte 100"},
		{"tables", func(b []byte) { le.PutUint32(b[104:], 1<<31) }, fail.Damaged, "at byte 104"},
		{"stored", func(b []byte) { le.PutUint32(b[108:], 1<<31) }, fail.Damaged, "at byte 108"},
		{"plain", func(b []byte) { le.PutUint32(b[112:], MaxPlainBytes+1) }, fail.Damaged, "at byte 108"},
		{"record kind", func(b []byte) { b[HeaderBytes+20] = 42 }, fail.Unsupported, "kind(42)"},
		{"negative offset", func(b []byte) { b[HeaderBytes+7] = 0x80 }, fail.Damaged, "at byte 160"},
		{"offset overflow", func(b []byte) { le.PutUint64(b[HeaderBytes:], 1<<63-1) }, fail.Damaged, "at byte 160"},
		{"write length", func(b []byte) { le.PutUint32(b[HeaderBytes+8:], 3) }, fail.Damaged, "at byte 160"},
		{"empty zero", func(b []byte) { le.PutUint32(b[HeaderBytes+24+8:], 0) }, fail.Damaged, "at byte 184"},
		{"zero with data", func(b []byte) { le.PutUint32(b[HeaderBytes+24+12:], 8) }, fail.Damaged, "at byte 184"},
		{"mark with length", func(b []byte) { le.PutUint32(b[HeaderBytes+72+8:], 8) }, fail.Damaged, "at byte 232"},
		{"data beyond", func(b []byte) { le.PutUint32(b[HeaderBytes+72+12:], 20) }, fail.Damaged, "at byte 232"},
		{"block bytes", func(b []byte) { le.PutUint32(b[116:], 8192-1) }, fail.Damaged, "at byte 116"},
		{"tiny blocks", func(b []byte) { le.PutUint32(b[116:], 2048) }, fail.Damaged, "at byte 116"},
		{"other blocks", func(b []byte) {
			le.PutUint32(b[116:], 8192)
			le.PutUint32(b[112:], 9000)
		}, fail.Damaged, "at byte 100"},
		{"block plain", func(b []byte) { le.PutUint32(b[HeaderBytes+96+4:], 7) }, fail.Damaged, "at byte 256"},
		{"block stored", func(b []byte) { le.PutUint32(b[HeaderBytes+96:], 1<<30) }, fail.Damaged, "at byte 256"},
		{"block checksum", func(b []byte) { b[HeaderBytes+96+8]++ }, fail.Damaged, "at byte 268"},
		{"block data", func(b []byte) { b[len(b)-1]++ }, fail.Damaged, "at byte 268"},
	} {
		b := encode(CodecS2, testChanges(1500))
		tt.do(b)
		reseal(b)
		_, err := decode(b)
		if !fail.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// zstdFrame is a frame as the catch-up uploader will make it.
func zstdFrame(t *testing.T, data []byte, opts ...zstd.EOption) []byte {
	t.Helper()
	b := encode(CodecNone, []Change{{Kind: Write, Volume: 1, Len: uint32(len(data)), Data: [][]byte{data}}})
	enc, err := zstd.NewWriter(nil, opts...)
	if err != nil {
		t.Fatal(err)
	}
	table := HeaderBytes + recordBytes
	head := bytes.Clone(b[:HeaderBytes+binary.LittleEndian.Uint32(b[104:])])
	var body []byte
	for i := 0; i < len(data); i += BlockBytes {
		plain := data[i:min(len(data), i+BlockBytes)]
		z := enc.EncodeAll(plain, nil)
		if len(z) >= len(plain) {
			z = plain
		}
		binary.LittleEndian.PutUint32(head[table:], uint32(len(z)))
		table += blockEntryBytes
		body = append(body, z...)
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	head[8] = byte(CodecZstd)
	binary.LittleEndian.PutUint32(head[108:], uint32(len(body)))
	out := append(head, body...)
	reseal(out)
	return out
}

func TestFrameZstd(t *testing.T) {
	for _, size := range []int{600, 5000, BlockBytes, 2*BlockBytes + 77} {
		data := bytes.Repeat(testBytes(3, 300), size/300+1)[:size]
		for name, o := range map[string][]zstd.EOption{"default": nil, "no sizes": {zstd.WithSingleSegment(false)},
			"best": {zstd.WithEncoderLevel(zstd.SpeedBestCompression)}} {
			c, err := decode(zstdFrame(t, data, o...))
			if err != nil || !bytes.Equal(c.Data[0], data) {
				t.Errorf("%s, %d bytes: %v", name, size, err)
			}
		}
	}
	// A block that says it is larger than its place is damage, and costs no
	// more memory than the place.
	b := zstdFrame(t, make([]byte, BlockBytes))
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	bomb := enc.EncodeAll(make([]byte, 16<<20), nil)
	b = append(b[:HeaderBytes+recordBytes+blockEntryBytes], bomb...)
	binary.LittleEndian.PutUint32(b[HeaderBytes+recordBytes:], uint32(len(bomb)))
	binary.LittleEndian.PutUint32(b[108:], uint32(len(bomb)))
	reseal(b)
	if _, err := decode(b); !fail.Is(err, fail.Damaged) {
		t.Errorf("bomb: %v", err)
	}
}

// FuzzParseFrame: whatever is accepted is what an encoder makes of it again.
func FuzzParseFrame(f *testing.F) {
	for _, codec := range []Codec{CodecNone, CodecS2} {
		f.Add(encode(codec, testChanges(1500)), true)
		f.Add(encode(codec, testChanges(1)), false)
		f.Add(encode(codec, testChanges(BlockBytes+9)), true)
	}
	f.Add(encode(CodecNone, []Change{{Kind: Trim, Volume: 1, Len: 1}}), true)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal && len(b) >= HeaderBytes {
			b = bytes.Clone(b)
			reseal(b)
		}
		c, err := decode(b)
		if err != nil {
			if !fail.Is(err, fail.Damaged) && !fail.Is(err, fail.Unsupported) {
				t.Fatalf("kind %v: %v", fail.KindOf(err), err)
			}
			return
		}
		var changes []Change
		for i, r := range c.Records {
			changes = append(changes, Change{Kind: r.Kind, Volume: r.Volume, Off: r.Off, Len: r.Len,
				Data: [][]byte{c.Data[i]}})
		}
		h := c.Header
		e := Encoder{Codec: CodecS2}
		again, err := decode(first(e.Encode(&h, changes)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.Records, again.Records, cmp.AllowUnexported(Record{})); diff != "" {
			t.Errorf("records: %s", diff)
		}
		for i := range c.Data {
			if !bytes.Equal(c.Data[i], again.Data[i]) {
				t.Errorf("record %d has other data", i)
			}
		}
	})
}

func first(b []byte, _ Hash) []byte { return b }

// TestFrameLanes encodes the same frames alone and by several workers: the bytes
// must not tell.
func TestFrameLanes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 9))
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for range 200 {
		var changes []Change
		for range 1 + rnd.IntN(6) {
			c := Change{Kind: Write, Off: rnd.Int64N(1 << 40), Volume: 1}
			for range 1 + rnd.IntN(5) {
				p := make([]byte, rnd.IntN(5*BlockBytes/2))
				for i := range p {
					p[i] = byte(rnd.IntN(1 + i&31))
				}
				c.Data, c.Len = append(c.Data, p), c.Len+uint32(len(p))
			}
			changes = append(changes, c)
		}
		frame := func(procs int) []byte {
			runtime.GOMAXPROCS(procs)
			e := Encoder{Codec: CodecS2}
			b, _ := e.Encode(&Header{FirstLSN: 1}, changes)
			return b
		}
		if !bytes.Equal(frame(1), frame(2)) || !bytes.Equal(frame(1), frame(4)) {
			t.Fatal("frames differ with the number of workers")
		}
	}
}
