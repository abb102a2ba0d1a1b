package hydrate

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/quantity"
)

// A side file, whose numbers are little endian, is a head and records, each beginning at a
// multiple of 512 bytes:
//
//	head    | "PLXH" | version u32 | length u32 | JSON | CRC-32C of all before |
//	record  | "PLXR" | length u32 | number u64 | runs | CRC-32C of all before, from "PLXR" on |
//	runs    (uvarint gap behind the run before, uvarint pages)...
const (
	sideVersion   = 1
	sectorBytes   = 512
	headBytes     = 12 // before the JSON
	recordBytes   = 16 // before the runs
	sumBytes      = 4
	maxHeadBytes  = 64 << 10
	compactFactor = 2
	compactSlack  = 1 << 20
)

var (
	headMagic   = []byte("PLXH")
	recordMagic = []byte("PLXR")
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
)

// Head is what a side file says beside which pages are here.
type Head struct {
	Point
	PageBytes int64 `json:"page_bytes"`
	// ID is what the image bears, where it has a place for it: else "".
	ID string `json:"id,omitempty"`
}

// maxSizeBytes bounds what is taken of memory for a volume, 256 MiB for the largest one.
const maxSizeBytes = 1 << 50

func checkSize(n int64) error {
	if n > maxSizeBytes {
		return fmt.Errorf("%v is more than %v", quantity.Bytes(n), quantity.Bytes(maxSizeBytes))
	}
	return quantity.CheckVolume(n)
}

func pad(b []byte) []byte {
	return append(b, make([]byte, (sectorBytes-len(b)%sectorBytes)%sectorBytes)...)
}

func seal(b []byte) []byte {
	return pad(binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)))
}

// encodeHead is a side file that has no records.
func encodeHead(h *Head) ([]byte, error) {
	text, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	b := binary.LittleEndian.AppendUint32(bytes.Clone(headMagic), sideVersion)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(text)))
	return seal(append(b, text...)), nil
}

// encodeRecord is the record of that number, which says that runs, in order, are here.
func encodeRecord(number uint64, runs []run) []byte {
	b := append(bytes.Clone(recordMagic), 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, number)
	at := int64(0)
	for _, r := range runs {
		b = binary.AppendUvarint(b, uint64(r.first-at))
		b = binary.AppendUvarint(b, uint64(r.n))
		at = r.first + r.n
	}
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)-recordBytes))
	return seal(b)
}

// sealed returns what lies before the checksum of a part of n bytes at the beginning of b, and
// whether that is right.
func sealed(b []byte, n int) ([]byte, bool) {
	if n > len(b)-sumBytes {
		return nil, false
	}
	return b[:n], binary.LittleEndian.Uint32(b[n:]) == crc32.Checksum(b[:n], castagnoli)
}

func sectors(n int) int { return (n + sumBytes + sectorBytes - 1) / sectorBytes * sectorBytes }

// decodeHead returns a side file's head, and where its records begin.
func decodeHead(b []byte) (h Head, end int, err error) {
	bad := func(kind fail.Kind, why string) (Head, int, error) {
		return Head{}, 0, fail.New(kind, "read", "side file", why)
	}
	if len(b) < headBytes || !bytes.Equal(b[:4], headMagic) {
		return bad(fail.Damaged, "it does not begin as one")
	}
	if v := binary.LittleEndian.Uint32(b[4:]); v != sideVersion {
		return bad(fail.Unsupported, fmt.Sprintf("version %d; this build reads %d", v, sideVersion))
	}
	n := binary.LittleEndian.Uint32(b[8:])
	if n > maxHeadBytes {
		return bad(fail.Damaged, "its head is too long")
	}
	text, ok := sealed(b, headBytes+int(n))
	if !ok {
		return bad(fail.Damaged, "the checksum of its head does not match")
	}
	if err := json.Unmarshal(text[headBytes:], &h); err != nil {
		return bad(fail.Damaged, err.Error())
	}
	if err := checkSize(h.SizeBytes); err != nil || h.PageBytes != pageBytes {
		return bad(fail.Unsupported, fmt.Sprintf("%d bytes in pages of %d", h.SizeBytes, h.PageBytes))
	}
	return h, min(sectors(headBytes+int(n)), len(b)), nil
}

// decodeRecord returns the runs of the record at the beginning of b, and its length, sectors
// and all. It is not ok where there is none of that number that is whole.
func decodeRecord(b []byte, number uint64, pages int64) (runs []run, n int, ok bool) {
	if len(b) < recordBytes || !bytes.Equal(b[:4], recordMagic) || binary.LittleEndian.Uint64(b[8:]) != number {
		return nil, 0, false
	}
	length := binary.LittleEndian.Uint32(b[4:])
	if uint64(length) > uint64(len(b)) {
		return nil, 0, false
	}
	all, ok := sealed(b, recordBytes+int(length))
	if !ok {
		return nil, 0, false
	}
	at := int64(0)
	for left := all[recordBytes:]; len(left) > 0; {
		gap, k := binary.Uvarint(left)
		if k <= 0 {
			return nil, 0, false
		}
		count, m := binary.Uvarint(left[k:])
		if m <= 0 || gap > uint64(pages-at) || count == 0 || count > uint64(pages-at)-gap {
			return nil, 0, false
		}
		left = left[k+m:]
		runs = append(runs, run{at + int64(gap), int64(count)})
		at += int64(gap) + int64(count)
	}
	return runs, min(sectors(len(all)), len(b)), true
}

// decode reads a side file, and calls fn with the runs of its records. What a power cut left
// of the last one is left out. Errors: fail.Damaged, fail.Unsupported.
func decode(b []byte, fn func(run)) (h Head, records uint64, err error) {
	h, at, err := decodeHead(b)
	if err != nil {
		return h, 0, err
	}
	total := pageCount(h.SizeBytes)
	for {
		runs, n, ok := decodeRecord(b[at:], records+1, total)
		if !ok {
			break
		}
		for _, r := range runs {
			fn(r)
		}
		records++
		at += n
	}
	// Records are synced one by one, so only the last one can be cut: behind a whole one, what is
	// not whole was once.
	for rest := at + sectorBytes; rest+recordBytes <= len(b); rest += sectorBytes {
		next := binary.LittleEndian.Uint64(b[rest+8:])
		if next <= records || next > records+uint64(len(b)/sectorBytes) {
			continue
		}
		if _, _, ok := decodeRecord(b[rest:], next, total); ok {
			return h, records, fail.New(fail.Damaged, "read", "side file",
				fmt.Sprintf("record %d, at byte %d, is damaged, and record %d is there", records+1, at, next))
		}
	}
	return h, records, nil
}

func pageCount(size int64) int64 { return (size + pageBytes - 1) / pageBytes }

// PageRun are pages of a volume, one behind the other.
type PageRun struct {
	First int64 `json:"first"`
	Pages int64 `json:"pages"`
}

// Contents are what a side file says.
type Contents struct {
	Head
	Records uint64    `json:"records"` // that are whole
	Here    []PageRun `json:"here"`    // in order
}

// Decode reads a side file: as far as it can, where it is damaged. Errors: fail.Damaged,
// fail.Unsupported.
func Decode(b []byte) (c Contents, err error) {
	var runs []run
	c.Head, c.Records, err = decode(b, func(r run) { runs = append(runs, r) })
	for _, r := range join(runs) {
		c.Here = append(c.Here, PageRun{r.first, r.n})
	}
	return c, err
}

// side is an open side file. One goroutine at a time uses it.
type side struct {
	fs      vfs.FS
	path    string
	head    Head
	f       vfs.File // nil after a failure
	end     int64
	records uint64
	least   int64 // its size when it was written anew
}

// damagedSide is the error of a side file that cannot be read. Without it nobody knows what the
// image holds, and what clients wrote to it.
func damagedSide(path string, err error) error {
	e := &fail.Error{Kind: fail.KindOf(err), Op: "open", Object: path, Err: err}
	return e.WithHint("which pages of the image are here is not known without it: restore the volume's newest point, " +
		"and say pollux volume accept; the WAL's writes are applied to that")
}

func readSide(fs vfs.FS, path string, fn func(run)) (Head, error) {
	f, err := fs.Open(path)
	if err != nil {
		return Head{}, fail.Wrap(fail.Internal, "open", path, err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return Head{}, fail.Wrap(fail.Internal, "read", path, err)
	}
	h, _, err := decode(b, fn)
	if err != nil {
		err = damagedSide(path, err)
	}
	return h, err
}

// openSide reads a side file into pages, and writes it anew.
func openSide(fs vfs.FS, path string) (*side, *pages, error) {
	s := &side{fs: fs, path: path}
	p, err := s.load()
	if err == nil {
		err = s.renew(p)
	}
	return s, p, err
}

// load reads the file.
func (s *side) load() (p *pages, err error) {
	var runs []run
	s.head, err = readSide(s.fs, s.path, func(r run) { runs = append(runs, r) })
	if err != nil {
		return nil, err
	}
	p = newPages(s.head.SizeBytes)
	eachLeaf(runs, func(r run) {
		for r.n > 0 {
			first, n := p.missing(r.first, r.first+r.n)
			if n == 0 {
				return
			}
			p.set(run{first, n})
			r = run{first + n, r.first + r.n - first - n}
		}
	})
	return p, nil
}

// renew writes the file anew, with one record of all pages.
func (s *side) renew(p *pages) error {
	b, err := encodeHead(&s.head)
	if err != nil {
		return fail.Wrap(fail.Internal, "write", s.path, err)
	}
	records := uint64(0)
	if all := p.all(); len(all) > 0 {
		records = 1
		b = append(b, encodeRecord(1, all)...)
	}
	if err := atomicfile.WriteFile(s.fs, s.path, b); err != nil {
		return fail.Wrap(fail.Full, "write", s.path, err)
	}
	s.close()
	s.records, s.end, s.least = records, int64(len(b)), int64(len(b))
	if s.f, err = s.fs.OpenReadWrite(s.path, vfs.WriteCategoryUnspecified); err != nil {
		s.f = nil
	}
	return fail.Wrap(fail.Internal, "open", s.path, err)
}

// append durably says that runs are here, whose bytes are durable.
func (s *side) append(runs []run) error {
	if s.f == nil || s.end > compactFactor*s.least+compactSlack {
		if err := s.compact(); err != nil && s.f == nil {
			return err
		}
	}
	b := encodeRecord(s.records+1, join(runs))
	if _, err := s.f.WriteAt(b, s.end); err != nil {
		return fail.Wrap(fail.Full, "write", s.path, err)
	}
	if err := s.f.SyncData(); err != nil {
		return fail.Wrap(fail.Internal, "sync", s.path, err)
	}
	s.end += int64(len(b))
	s.records++
	return nil
}

// compact makes the file as small as it can be.
func (s *side) compact() error {
	p, err := s.load()
	if err != nil {
		return err
	}
	return s.renew(p)
}

// remove ends it, durably.
func (s *side) remove() error {
	return fail.Wrap(fail.Internal, "remove", s.path, atomicfile.Remove(s.fs, s.path))
}

func (s *side) close() {
	if s.f != nil {
		_ = s.f.Close() // what it was told is synced
		s.f = nil
	}
}
