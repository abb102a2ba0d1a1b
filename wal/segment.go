package wal

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// segment is one file of the log that holds, or will hold, live entries.
type segment struct {
	segmentHeader
	path      string
	file      vfs.File
	sizeBytes int64 // batches must end before; at least one block less is for the seal

	// Guarded by Log.mu.
	offsets  []uint32 // of each live entry, from base on
	endBytes int64    // end of the batch that holds the last live entry, or of the header

	// refs counts readers, plus one until the segment is retired: whoever takes
	// it to zero closes the file.
	refs atomic.Int32
}

// lastIndex returns the index of the last live entry; base-1 if there is none.
func (s *segment) lastIndex() uint64 { return s.base + uint64(len(s.offsets)) - 1 }

// span returns where the entry lies, and an end that is at or after its end.
func (s *segment) span(index uint64) (from, to int64) {
	i := index - s.base
	from, to = int64(s.offsets[i]), s.endBytes
	if i+1 < uint64(len(s.offsets)) {
		to = int64(s.offsets[i+1])
	}
	return from, to
}

// acquire keeps the file open and unrecycled until release. Log.mu is held, so
// the segment is not retired yet.
func (s *segment) acquire() { s.refs.Add(1) }

func (s *segment) release() {
	if s.refs.Add(-1) == 0 {
		_ = s.file.Close()
	}
}

// busy reports whether a reader still uses the segment.
func (s *segment) busy() bool { return s.refs.Load() > 1 }

func (s *segment) retire() { s.release() }

// spare is a file that waits to become a segment.
type spare struct {
	path string
	file vfs.File
}

const (
	segmentSuffix = ".wal"
	sparePrefix   = "spare-"
	lockName      = "LOCK"
)

func segmentName(sequence uint64) string { return fmt.Sprintf("%020d%s", sequence, segmentSuffix) }

func spareName(n uint64) string { return sparePrefix + strconv.FormatUint(n, 10) + segmentSuffix }

// parseName tells what a file in the directory is: its number, and whether it is
// a segment or a spare. Other files are left alone.
func parseName(name string) (n uint64, isSegment, isSpare bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok {
		return 0, false, false
	}
	if d, ok := strings.CutPrefix(digits, sparePrefix); ok {
		n, err := strconv.ParseUint(d, 10, 64)
		return n, false, err == nil && spareName(n) == name
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil && n > 0 && segmentName(n) == name, false
}

func randomSalt(uint64) uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:])
}

// salt joins random bits with the sequence's low bits, so that neighbouring
// generations differ even where the source of randomness is poor.
func (l *Log) salt(sequence uint64) uint64 {
	return l.opt.Salt(sequence)<<24 | sequence&(1<<24-1)
}

// fillFunc writes what a new segment holds from its first moment on.
type fillFunc func(f vfs.File, h segmentHeader, chain uint32) (filled, error)

// filled describes batches just written.
type filled struct {
	offsets  []uint32
	endBytes int64
	chain    uint32
}

// createSegment makes a segment with the next sequence and makes it durable:
// header (and contents) first, under a spare's name, then the name. So a file
// with a segment's name always has a good header, and is complete.
func (l *Log) createSegment(h segmentHeader, fill fillFunc) (*segment, uint32, error) {
	h.sequence = l.nextSeq
	h.salt = l.salt(h.sequence)
	l.nextSeq++
	sp, err := l.takeSpare()
	if err != nil {
		return nil, 0, err
	}
	got, err := l.prepareSegment(sp, h, fill)
	if err != nil {
		_ = sp.file.Close()
		_ = l.fs.Remove(sp.path)
		return nil, 0, err
	}
	s := &segment{
		segmentHeader: h,
		path:          l.fs.PathJoin(l.dir, segmentName(h.sequence)),
		file:          sp.file,
		sizeBytes:     l.opt.SegmentBytes,
		offsets:       got.offsets,
		endBytes:      got.endBytes,
	}
	s.refs.Store(1)
	if err := l.fs.Rename(sp.path, s.path); err != nil {
		_ = sp.file.Close()
		_ = l.fs.Remove(sp.path)
		return nil, 0, ioError("create wal segment", s.path, err)
	}
	if err := l.dirFile.Sync(); err != nil {
		_ = sp.file.Close()
		// Never Full, whatever the errno: the name may or may not be there.
		return nil, 0, fmt.Errorf("sync directory: %w", err)
	}
	return s, got.chain, nil
}

func (l *Log) prepareSegment(sp *spare, h segmentHeader, fill fillFunc) (filled, error) {
	const op = "create wal segment"
	block := make([]byte, blockBytes)
	chain := encodeSegmentHeader(block, h)
	if _, err := sp.file.WriteAt(block, 0); err != nil {
		return filled{}, ioError(op, sp.path, err)
	}
	got := filled{endBytes: segmentHeaderBytes, chain: chain}
	if fill != nil {
		var err error
		if got, err = fill(sp.file, h, chain); err != nil {
			return filled{}, err
		}
	}
	if err := sp.file.SyncData(); err != nil {
		return filled{}, ioError(op, sp.path, err)
	}
	return got, nil
}
