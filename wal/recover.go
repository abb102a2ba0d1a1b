package wal

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/fail"
)

const opOpen = "open wal"

// found is a segment file with a good header.
type found struct {
	segmentHeader
	path string
	file vfs.File
	crc  uint32 // of the header: the chain's start
}

// openForWriting locks the directory, reads what is there and, unless the log
// was closed in order, puts the tail of uncertain durability into a new segment.
func (l *Log) openForWriting() error {
	if err := makeDir(l.fs, l.dir); err != nil {
		return ioError(opOpen, l.dir, err)
	}
	var err error
	if l.lockFile, err = l.fs.Lock(l.fs.PathJoin(l.dir, lockName)); err != nil {
		if isNoSpace(err) {
			return ioError(opOpen, l.dir, err)
		}
		return (&fail.Error{Kind: fail.Refused, Op: opOpen, Object: l.dir,
			Err: fmt.Errorf("cannot lock the log: %w", err)}).
			WithHint("another process has this log open; stop it first")
	}
	if l.dirFile, err = l.fs.OpenDir(l.dir); err != nil {
		return ioError(opOpen, l.dir, err)
	}
	all, err := l.findFiles()
	if err != nil {
		return err
	}
	chain, dead, err := linkSegments(l.dir, all)
	if err != nil {
		closeAll(all)
		return err
	}
	for _, f := range dead {
		l.freed = append(l.freed, l.newSegment(f))
	}
	l.nextSeq = 1
	if len(all) > 0 {
		l.nextSeq = all[len(all)-1].sequence + 1
	}
	if len(chain) == 0 {
		return l.startNew()
	}
	tail, err := l.load(chain)
	if err != nil {
		return err
	}
	return l.finishOpen(tail)
}

// makeDir creates dir and makes each level that was missing durable.
func makeDir(fs vfs.FS, dir string) error {
	var parents []string
	for d := dir; ; {
		_, err := fs.Stat(d)
		if err == nil {
			break
		}
		if !isNotExist(err) {
			return err
		}
		p := fs.PathDir(d)
		if p == d {
			break
		}
		parents = append(parents, p)
		d = p
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, p := range slices.Backward(parents) {
		d, err := fs.OpenDir(p)
		if err != nil {
			return err
		}
		err = errors.Join(d.Sync(), d.Close())
		if err != nil {
			return err
		}
	}
	return nil
}

// findFiles opens every segment, in order of sequence, and takes over spares.
func (l *Log) findFiles() ([]found, error) {
	names, err := l.fs.List(l.dir)
	if err != nil {
		return nil, ioError(opOpen, l.dir, err)
	}
	slices.Sort(names)
	var all []found
	for _, name := range names {
		n, isSegment, isSpare := parseName(name)
		path := l.fs.PathJoin(l.dir, name)
		switch {
		case isSegment:
			f, err := openSegment(l.fs, path, n, l.opt.ReadOnly)
			if err != nil {
				if l.opt.ReadOnly && isNotExist(err) {
					continue // recycled meanwhile
				}
				closeAll(all)
				return nil, err
			}
			all = append(all, f)
		case isSpare && !l.opt.ReadOnly:
			l.spareSeq = max(l.spareSeq, n)
			l.adoptSpare(path)
		}
	}
	return all, nil
}

// adoptSpare keeps a spare left by an earlier run, whatever it contains, or
// removes it where it is of no use.
func (l *Log) adoptSpare(path string) {
	info, err := l.fs.Stat(path)
	if err == nil && len(l.spares) < l.opt.MaxSpares && info.Size() <= l.opt.SegmentBytes {
		if f, err := l.fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified); err == nil {
			l.spares = append(l.spares, &spare{path: path, file: f})
			return
		}
	}
	_ = l.fs.Remove(path)
}

func openSegment(fs vfs.FS, path string, sequence uint64, readOnly bool) (found, error) {
	var f vfs.File
	var err error
	if readOnly {
		f, err = fs.Open(path)
	} else {
		f, err = fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	}
	if err != nil {
		return found{}, ioError(opOpen, path, err)
	}
	block := make([]byte, segmentHeaderBytes)
	n, err := f.ReadAt(block, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		_ = f.Close()
		return found{}, damaged(opOpen, path, int64(n), err)
	}
	h, crc, err := decodeSegmentHeader(block[:n])
	var version versionError
	switch {
	case errors.As(err, &version):
		err = (&fail.Error{Kind: fail.Unsupported, Op: opOpen, Object: path, Err: err}).
			WithHint("the log was written by a later release of pollux: use that one")
	case err != nil:
		err = damaged(opOpen, path, 0, err)
	case h.sequence != sequence:
		err = damaged(opOpen, path, 0, fmt.Errorf("header has sequence %d", h.sequence))
	default:
		return found{segmentHeader: h, path: path, file: f, crc: crc}, nil
	}
	_ = f.Close()
	return found{}, err
}

func closeAll(all []found) {
	for _, f := range all {
		_ = f.file.Close()
	}
}

// linkSegments follows the newest segment's links back, as far as live entries
// may go, and splits the segments into that chain and the dead, both ascending.
// A chain may begin in the middle, where the front was truncated; but the oldest
// files are recycled first, so none may be older than a missing link.
func linkSegments(dir string, all []found) (chain, dead []found, err error) {
	if len(all) == 0 {
		return nil, nil, nil
	}
	bySequence := map[uint64]found{}
	for _, f := range all {
		bySequence[f.sequence] = f
	}
	newest := all[len(all)-1]
	chain = append(chain, newest)
	for f := newest; f.prevSequence != 0 && f.base > newest.front; {
		p, ok := bySequence[f.prevSequence]
		if !ok {
			if all[0].sequence < f.prevSequence {
				return nil, nil, damaged(opOpen, f.path, 0, fmt.Errorf(
					"it continues %s, which is missing, though older segments are there", segmentName(f.prevSequence)))
			}
			break
		}
		if p.salt != f.prevSalt || p.base >= f.base {
			return nil, nil, damaged(opOpen, p.path, 0,
				fmt.Errorf("it is not the segment that %s continues", segmentName(f.sequence)))
		}
		chain = append(chain, p)
		f = p
	}
	slices.Reverse(chain)
	for _, f := range all {
		if !slices.ContainsFunc(chain, func(c found) bool { return c.sequence == f.sequence }) {
			dead = append(dead, f)
		}
	}
	return chain, dead, nil
}

// newSegment makes a segment without entries of f.
func (l *Log) newSegment(f found) *segment {
	s := &segment{
		segmentHeader: f.segmentHeader,
		path:          f.path,
		file:          f.file,
		sizeBytes:     l.opt.SegmentBytes,
		endBytes:      segmentHeaderBytes,
	}
	s.refs.Store(1)
	return s
}

// load reads the chain into l.segments and returns the scan of the newest.
func (l *Log) load(chain []found) (*scan, error) {
	for _, f := range chain { // first of all, so that they get closed
		l.segments = append(l.segments, l.newSegment(f))
	}
	var tail *scan
	for i, f := range chain {
		newest := i == len(chain)-1
		sc, err := newScan(f.file, f.segmentHeader, f.crc, newest)
		if err != nil {
			return nil, ioError(opOpen, f.path, err)
		}
		if !newest {
			sc.until = chain[i+1].base
		}
		if err := sc.run(nil); err != nil {
			return nil, damaged(opOpen, f.path, sc.off, err)
		}
		s := l.segments[i]
		s.offsets, s.endBytes = sc.offsets, sc.endBytes
		if newest {
			tail = sc
			continue
		}
		if sc.why != nil {
			return nil, damaged(opOpen, f.path, sc.off,
				fmt.Errorf("%w; entries up to %d were durable", sc.why, sc.until-1))
		}
		if keep := sc.until - f.base; uint64(len(s.offsets)) > keep {
			s.endBytes = int64(s.offsets[keep])
			s.offsets = s.offsets[:keep:keep]
		}
	}
	l.front = max(tail.front, l.segments[0].base)
	l.last = tail.next - 1
	return tail, nil
}

// judgeTail decides whether what the scan of the newest segment stopped at is
// the end, a torn write, or damage. clean means that nothing was written after
// the mark of a clean Close.
func (l *Log) judgeTail(tail *scan) (clean bool, err error) {
	path := l.active().path
	synced, more, err := tail.laterBatch()
	if err != nil {
		return false, damaged(opOpen, path, tail.off, err)
	}
	if more && synced >= tail.next {
		return false, damaged(opOpen, path, tail.off, fmt.Errorf("%w; entries up to %d were durable", tail.why, synced))
	}
	if more {
		l.info.TornFile, l.info.TornOffsetBytes, l.info.TornReason = path, tail.off, tail.why.Error()
	}
	return tail.sealed && !more, nil
}

// finishOpen brings the log into a state in which appending is safe.
func (l *Log) finishOpen(tail *scan) error {
	clean, err := l.judgeTail(tail)
	if err != nil {
		return err
	}
	if clean {
		l.info.Clean = true
		l.writeOff, l.chain, l.sealed = tail.off, tail.chain, true
	} else if err := l.replaceTail(tail); err != nil {
		return err
	}
	l.durable = l.last
	l.dropDeadLocked() // nobody else is there yet
	l.maintenance()
	return nil
}

// replaceTail continues in a new segment, into which the entries beyond the last
// watermark are written anew: they may be in the page cache only, marked clean
// by a sync that failed, and still have been acknowledged by none that counts,
// or by one whose watermark was never written. What stood behind them can never
// be reached again.
func (l *Log) replaceTail(tail *scan) error {
	old := l.active()
	base := max(min(tail.synced, l.last)+1, l.front)
	h := segmentHeader{base: base, front: l.front}
	if base > l.front {
		p := l.findLocked(base - 1)
		h.prevSequence, h.prevSalt = p.sequence, p.salt
	}
	s, chain, err := l.createSegment(h, func(f vfs.File, h segmentHeader, chain uint32) (filled, error) {
		return l.rewrite(old, f, h, chain)
	})
	if err != nil {
		return fail.At(opOpen, l.dir, err)
	}
	if keep := max(base, old.base) - old.base; uint64(len(old.offsets)) > keep {
		l.info.RewrittenEntries = len(old.offsets) - int(keep)
		old.endBytes = int64(old.offsets[keep])
		old.offsets = old.offsets[:keep:keep]
	}
	l.segments = append(l.segments, s)
	l.writeOff, l.chain = s.endBytes, chain
	return nil
}

// rewrite copies the entries of old from h.base on, batch for batch.
func (l *Log) rewrite(old *segment, f vfs.File, h segmentHeader, chain uint32) (filled, error) {
	out := filled{endBytes: segmentHeaderBytes, chain: chain}
	oldCRC := encodeSegmentHeader(make([]byte, segmentHeaderBytes), old.segmentHeader)
	sc, err := newScan(old.file, old.segmentHeader, oldCRC, true)
	if err != nil {
		return out, ioError(opOpen, old.path, err)
	}
	sc.until = l.last + 1
	err = sc.run(func(b *batch) error {
		if b.first+uint64(b.count) <= h.base {
			return nil
		}
		skip := max(b.first, h.base) - b.first
		var crc uint32
		l.scratch, crc = encodeBatch(l.scratch, batchHeader{
			salt: h.salt, offsetBytes: uint32(out.endBytes), chain: out.chain,
			first: b.first + skip, synced: h.base - 1, front: h.front,
		}, parts{bodies: b.entries[skip:]})
		if _, err := f.WriteAt(l.scratch, out.endBytes); err != nil {
			return ioError(opOpen, l.dir, err)
		}
		at := uint32(out.endBytes) + batchHeaderBytes
		for _, e := range b.entries[skip:] {
			out.offsets = append(out.offsets, at)
			at += entryHeaderBytes + uint32(len(e))
		}
		out.endBytes += int64(len(l.scratch))
		out.chain = crc
		return nil
	})
	if err == nil && sc.why != nil {
		err = damaged(opOpen, old.path, sc.off, fmt.Errorf("it has changed while it was read: %w", sc.why))
	}
	return out, err
}

// startNew creates the first segment of an empty directory.
func (l *Log) startNew() error {
	l.info.Clean = true
	l.front = 1
	if l.opt.PreallocateInBackground && len(l.spares) == 0 {
		// Worth waiting for here: the first segment is then as fast as the rest.
		sp, err := l.zeroedSpare()
		if err != nil {
			return err
		}
		l.spares = append(l.spares, sp)
	}
	s, chain, err := l.createSegment(segmentHeader{base: 1, front: 1}, nil)
	if err != nil {
		return fail.At(opOpen, l.dir, err)
	}
	l.segments = append(l.segments, s)
	l.writeOff, l.chain = segmentHeaderBytes, chain
	return nil
}

// recoverReadOnly loads what is there and changes nothing. A writer may be at
// work: a file that it recycles meanwhile makes for another try.
func (l *Log) recoverReadOnly() error {
	var err error
	for range 5 {
		if err = l.tryReadOnly(); err == nil || !fail.Is(err, fail.Damaged) && !isNotExist(err) {
			return err
		}
	}
	return err
}

func (l *Log) tryReadOnly() error {
	for _, s := range l.segments { // of an earlier try
		s.retire()
	}
	l.segments, l.front, l.last = nil, 1, 0
	all, err := l.findFiles()
	if err != nil {
		return err
	}
	chain, dead, err := linkSegments(l.dir, all)
	if err != nil {
		closeAll(all)
		return err
	}
	closeAll(dead)
	if len(chain) == 0 {
		return fail.New(fail.NotFound, opOpen, l.dir, "there is no log here")
	}
	tail, err := l.load(chain)
	if err != nil {
		return err
	}
	if _, err := l.judgeTail(tail); err != nil {
		return err
	}
	l.durable = l.last
	l.dropDeadLocked()
	for _, s := range l.freed {
		s.retire()
	}
	l.freed = nil
	return nil
}
