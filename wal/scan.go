package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// scanWindowBytes is read at a time where every byte is looked at.
	scanWindowBytes = 1 << 20
	// hopWindowBytes is read at a time where only headers are.
	hopWindowBytes = 16 << 10
)

// window reads a file in pieces of at least minBytes.
type window struct {
	file      vfs.File
	sizeBytes int64
	minBytes  int
	buf       []byte
	off       int64
}

// at returns n bytes at off, valid until the next call; fewer where the file
// ends. An error is one of the device.
func (w *window) at(off int64, n int) ([]byte, error) {
	n = int(min(int64(n), max(0, w.sizeBytes-off)))
	if n == 0 { // the file may end inside a batch's padding, before off
		return nil, nil
	}
	if off < w.off || off+int64(n) > w.off+int64(len(w.buf)) {
		size := int(min(int64(max(n, w.minBytes)), w.sizeBytes-off))
		if cap(w.buf) < size {
			w.buf = make([]byte, size)
		}
		w.buf, w.off = w.buf[:size], off
		got, err := w.file.ReadAt(w.buf, off)
		if err != nil && !errors.Is(err, io.EOF) {
			w.buf = w.buf[:0]
			return nil, err
		}
		w.buf = w.buf[:got]
		n = min(n, got)
	}
	return w.buf[off-w.off : off-w.off+int64(n)], nil
}

// batch is one batch as a scan met it. entries is nil in a structural scan.
type batch struct {
	batchHeader
	offsets []uint32 // of its entries
	entries [][]byte // valid until the scan goes on
}

// scan is the state of, and in the end what was learnt from, reading a segment.
type scan struct {
	w      window
	h      segmentHeader
	verify bool   // check every entry, not headers only
	until  uint64 // stop once the entry before has been seen; 0: go to the end

	next     uint64 // index expected next
	off      int64  // where the next batch is expected
	endBytes int64  // end of the last batch with entries
	chain    uint32
	synced   uint64 // the highest watermark
	front    uint64 // the latest front mark
	sealed   bool   // the last batch was a seal
	offsets  []uint32
	why      error // why the scan stopped, if not because of until

	batch batch // reused
}

func newScan(f vfs.File, h segmentHeader, headerCRC uint32, verify bool) (*scan, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	s := &scan{
		w: window{file: f, sizeBytes: info.Size(), minBytes: hopWindowBytes},
		h: h, verify: verify,
		next: h.base, off: segmentHeaderBytes, endBytes: segmentHeaderBytes,
		chain: headerCRC, synced: h.base - 1, front: h.front,
	}
	if verify {
		s.w.minBytes = scanWindowBytes
	}
	return s, nil
}

// run reads batches until one is not valid, s.until is reached or visit fails.
// Only device errors and those of visit are returned: s.why tells the rest.
func (s *scan) run(visit func(b *batch) error) error {
	for s.until == 0 || s.next < s.until {
		why, err := s.step()
		if err != nil {
			return fmt.Errorf("at byte %d: %w", s.off, err)
		}
		if why != nil {
			s.why = why
			return nil
		}
		b := &s.batch
		if visit != nil {
			if err := visit(b); err != nil {
				return err
			}
		}
		s.offsets = append(s.offsets, b.offsets...)
		s.next += uint64(b.count)
		s.off += batchBytes(int64(b.payloadBytes))
		if b.count > 0 {
			s.endBytes = s.off
		}
		s.chain = b.crc
		s.synced = max(s.synced, b.synced)
		s.front = max(s.front, b.front)
		s.sealed = b.flags&flagSeal != 0
	}
	return nil
}

// step reads the batch at s.off into s.batch; why says what is wrong with it.
func (s *scan) step() (why, err error) {
	head, err := s.w.at(s.off, batchHeaderBytes)
	if err != nil {
		return nil, err
	}
	if len(head) < batchHeaderBytes {
		return errors.New("end of file"), nil
	}
	h, why := decodeBatchHeader(head)
	if why == nil {
		why = s.check(h)
	}
	if why != nil {
		return why, nil
	}
	s.batch.batchHeader = h
	return s.readEntries()
}

// check judges a batch header by what stands before it.
func (s *scan) check(h batchHeader) error {
	switch {
	case h.salt != s.h.salt:
		return errors.New("batch of an older generation")
	case int64(h.offsetBytes) != s.off:
		return fmt.Errorf("batch was written for byte %d", h.offsetBytes)
	case h.chain != s.chain:
		return errors.New("batch does not follow the one before")
	case h.first != s.next:
		return fmt.Errorf("batch begins with entry %d instead of %d", h.first, s.next)
	case h.synced >= h.first || h.front > h.first || h.front == 0:
		return errors.New("batch has impossible marks")
	case h.count > maxBatchEntries || int64(h.count)*entryHeaderBytes > int64(h.payloadBytes):
		return errors.New("batch has impossible sizes")
	case s.off+batchHeaderBytes+int64(h.payloadBytes) > s.w.sizeBytes:
		return errors.New("batch is cut off by the end of the file")
	}
	return nil
}

// readEntries fills in offsets, and entries where s.verify is set.
func (s *scan) readEntries() (why, err error) {
	b := &s.batch
	b.offsets, b.entries = b.offsets[:0], b.entries[:0]
	at := s.off + batchHeaderBytes
	end := at + int64(b.payloadBytes)
	if s.verify { // all of it in the window, so that slices of it stay valid
		if p, err := s.w.at(s.off, int(end-s.off)); err != nil {
			return nil, err
		} else if int64(len(p)) < end-s.off {
			return errors.New("batch is cut off by the end of the file"), nil
		}
	}
	digest := uint32(0)
	for i := range b.count {
		head, err := s.w.at(at, entryHeaderBytes)
		if err != nil {
			return nil, err
		}
		if len(head) < entryHeaderBytes {
			return errors.New("entry is cut off by the end of the file"), nil
		}
		digest = crc32.Update(digest, castagnoli, head)
		next := at + entryHeaderBytes + int64(binary.LittleEndian.Uint32(head))
		if next > end {
			return fmt.Errorf("entry %d goes beyond its batch", b.first+uint64(i)), nil
		}
		if s.verify {
			raw, err := s.w.at(at, int(next-at))
			if err != nil {
				return nil, err
			}
			e, why := decodeEntry(raw, b.salt, b.first+uint64(i))
			if why != nil {
				return why, nil
			}
			b.entries = append(b.entries, e)
		}
		b.offsets = append(b.offsets, uint32(at))
		at = next
	}
	if at != end || digest != b.digest {
		return errors.New("batch's digest of entry headers does not match"), nil
	}
	return nil, nil
}

// laterBatch looks behind the place where the scan stopped for a batch of the
// same generation, that place included, and returns the highest watermark found;
// ok says whether there was any batch.
func (s *scan) laterBatch() (synced uint64, ok bool, err error) {
	s.w.minBytes = scanWindowBytes
	for off := s.off; off+batchHeaderBytes <= s.w.sizeBytes; off += blockBytes {
		b, err := s.w.at(off, batchHeaderBytes)
		if err != nil {
			return 0, false, fmt.Errorf("at byte %d: %w", off, err)
		}
		h, bad := decodeBatchHeader(b)
		if bad == nil && h.salt == s.h.salt && int64(h.offsetBytes) == off {
			synced, ok = max(synced, h.synced), true
		}
	}
	return synced, ok, nil
}
