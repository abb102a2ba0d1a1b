package branch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

const (
	magic   = "PLXB"
	version = 1

	headBytes   = 128
	recordBytes = 32
	// MaxExtentBytes bounds one record of data. Zeros are as long as they are.
	MaxExtentBytes = 1 << 20
)

// The kinds of a record.
const (
	kindData  = 1
	kindZeros = 2
	kindEnd   = 3
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Head says what a file's extents are of.
type Head struct {
	Journal   uuid.UUID       `json:"journal"`
	Stream    change.StreamID `json:"stream"`
	Volume    uint32          `json:"volume"` // its number
	SizeBytes int64           `json:"size_bytes"`
	Epoch     uint64          `json:"epoch"` // under which they were written
	Base      change.Point    `json:"base"`  // what they were written over
}

// Totals are what a file has in all.
type Totals struct {
	Extents   int64 `json:"extents"`
	Bytes     int64 `json:"bytes"`      // of the volume
	ZeroBytes int64 `json:"zero_bytes"` // of them, zeros, which take no room
}

// Extent is a run of a volume; Data is nil where it is zeros, and valid until the next one.
type Extent struct {
	Off, Len int64
	Data     []byte
}

func (h *Head) encode() []byte {
	b := make([]byte, headBytes)
	copy(b, magic)
	le := binary.LittleEndian
	le.PutUint16(b[4:], version)
	le.PutUint16(b[6:], headBytes)
	copy(b[8:], h.Journal[:])
	copy(b[24:], h.Stream[:])
	le.PutUint32(b[40:], h.Volume)
	le.PutUint64(b[48:], uint64(h.SizeBytes))
	le.PutUint64(b[56:], h.Epoch)
	le.PutUint64(b[64:], h.Base.LSN)
	copy(b[72:], h.Base.Hash[:])
	le.PutUint32(b[headBytes-4:], crc32.Checksum(b[:headBytes-4], castagnoli))
	return b
}

func parseHead(b []byte) (h Head, err error) {
	le := binary.LittleEndian
	switch {
	case string(b[:4]) != magic:
		return h, damaged(0, "it does not begin with %s", magic)
	case le.Uint16(b[4:]) != version:
		return h, fail.New(fail.Unsupported, "read", "branch", fmt.Sprintf("version %d; this build reads %d",
			le.Uint16(b[4:]), version))
	case le.Uint32(b[headBytes-4:]) != crc32.Checksum(b[:headBytes-4], castagnoli) || le.Uint16(b[6:]) != headBytes:
		return h, damaged(0, "the checksum of the head does not match")
	}
	copy(h.Journal[:], b[8:])
	copy(h.Stream[:], b[24:])
	h.Volume, h.SizeBytes, h.Epoch = le.Uint32(b[40:]), int64(le.Uint64(b[48:])), le.Uint64(b[56:])
	h.Base.LSN = le.Uint64(b[64:])
	copy(h.Base.Hash[:], b[72:])
	if h.SizeBytes <= 0 {
		return h, damaged(0, "a volume of %d bytes", h.SizeBytes)
	}
	return h, nil
}

// Writer writes a file of extents, which come in ascending order and do not overlap.
type Writer struct {
	w      io.Writer
	head   Head
	end    int64 // of the last extent
	totals Totals
}

// NewWriter writes the head.
func NewWriter(w io.Writer, h Head) (*Writer, error) {
	_, err := w.Write(h.encode())
	return &Writer{w: w, head: h}, err
}

// record writes a record's head, and what belongs to it.
func (w *Writer) record(kind byte, off, n int64, data []byte) error {
	b := make([]byte, recordBytes, recordBytes+len(data))
	le := binary.LittleEndian
	b[0] = kind
	le.PutUint64(b[8:], uint64(off))
	le.PutUint64(b[16:], uint64(n))
	le.PutUint32(b[24:], crc32.Checksum(data, castagnoli))
	le.PutUint32(b[28:], crc32.Checksum(b[:28], castagnoli))
	_, err := w.w.Write(append(b, data...))
	return err
}

// Add writes an extent: its bytes, or n zeros where data is nil.
func (w *Writer) Add(off, n int64, data []byte) error {
	if off < w.end || n <= 0 || n > w.head.SizeBytes-off ||
		data != nil && (int64(len(data)) != n || n > MaxExtentBytes) {
		return fail.New(fail.Internal, "write", "branch", fmt.Sprintf("an extent of %d bytes at %d behind %d", n, off,
			w.end))
	}
	kind := byte(kindData)
	if data == nil {
		kind = kindZeros
		w.totals.ZeroBytes += n
	}
	w.end = off + n
	w.totals.Extents++
	w.totals.Bytes += n
	return w.record(kind, off, n, data)
}

// Close writes the end, without which a file is none.
func (w *Writer) Close() (Totals, error) {
	return w.totals, w.record(kindEnd, w.totals.Extents, w.totals.Bytes, nil)
}

// Read reads a file of extents from its beginning to its end, checks all of it, and calls fn with
// each extent. Errors: fail.Damaged with the offset, fail.Unsupported; fn's.
func Read(in io.Reader, fn func(Extent) error) (h Head, t Totals, err error) {
	r := reader{in: in}
	b, err := r.next(headBytes)
	if err != nil {
		return h, t, err
	}
	if h, err = parseHead(b); err != nil {
		return h, t, err
	}
	for end := int64(0); ; {
		at := r.at
		e, kind, err := r.record()
		if err != nil {
			return h, t, err
		}
		if kind == kindEnd {
			if e.Off != t.Extents || e.Len != t.Bytes {
				return h, t, damaged(at, "it ends after %d extents of %d bytes, and says %d of %d", t.Extents, t.Bytes,
					e.Off, e.Len)
			}
			if n, _ := io.ReadFull(in, b[:1]); n > 0 {
				return h, t, damaged(r.at, "something follows the end")
			}
			return h, t, nil
		}
		if e.Off < end || e.Len <= 0 || e.Off > h.SizeBytes || e.Len > h.SizeBytes-e.Off {
			return h, t, damaged(at, "an extent of %d bytes at %d, behind %d, in a volume of %d", e.Len, e.Off, end,
				h.SizeBytes)
		}
		if kind == kindData {
			if e.Data, err = r.payload(e.Len); err != nil {
				return h, t, err
			}
		} else {
			t.ZeroBytes += e.Len
		}
		end = e.Off + e.Len
		t.Extents++
		t.Bytes += e.Len
		if err := fn(e); err != nil {
			return h, t, err
		}
	}
}

// reader reads records.
type reader struct {
	in   io.Reader
	at   int64
	head [headBytes]byte
	crc  uint32 // of the payload that comes next
	data []byte
}

func (r *reader) next(n int) ([]byte, error) {
	b := r.head[:n]
	return b, r.fill(b)
}

func (r *reader) fill(b []byte) error {
	n, err := io.ReadFull(r.in, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return damaged(r.at+int64(n), "the file is cut off")
	}
	r.at += int64(n)
	return fail.Wrap(fail.Internal, "read", "branch", err)
}

func (r *reader) record() (e Extent, kind byte, err error) {
	at := r.at
	b, err := r.next(recordBytes)
	if err != nil {
		return e, 0, err
	}
	le := binary.LittleEndian
	if le.Uint32(b[28:]) != crc32.Checksum(b[:28], castagnoli) {
		return e, 0, damaged(at, "the checksum of a record's head does not match")
	}
	e.Off, e.Len, r.crc = int64(le.Uint64(b[8:])), int64(le.Uint64(b[16:])), le.Uint32(b[24:])
	switch kind = b[0]; {
	case kind != kindData && kind != kindZeros && kind != kindEnd:
		return e, 0, damaged(at, "a record of kind %d", kind)
	case kind == kindData && e.Len > MaxExtentBytes:
		return e, 0, damaged(at, "an extent of %d bytes", e.Len)
	}
	return e, kind, nil
}

func (r *reader) payload(n int64) ([]byte, error) {
	at := r.at
	r.data = slices.Grow(r.data[:0], int(n))[:n]
	if err := r.fill(r.data); err != nil {
		return nil, err
	}
	if crc32.Checksum(r.data, castagnoli) != r.crc {
		return nil, damaged(at, "the checksum of an extent does not match")
	}
	return r.data, nil
}

func damaged(at int64, format string, args ...any) error {
	return fail.New(fail.Damaged, "read", fmt.Sprintf("branch at byte %d", at), fmt.Sprintf(format, args...))
}
