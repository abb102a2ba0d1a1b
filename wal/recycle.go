package wal

import (
	"context"
	"slices"
	"sort"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// zeroChunkBytes is written and synced at a time when a spare is made: little,
// so that an appender's fdatasync does not queue behind a whole segment.
const zeroChunkBytes = 256 << 10

var backgroundContext = context.Background()

// freeLocked puts a dead segment in line for recycling. The line is kept in
// order of sequence and worked off in that order: a segment that others were
// built upon must not vanish while an older one is still there, or recovery
// could not tell a recycled segment from a lost one.
func (l *Log) freeLocked(s *segment) {
	i := sort.Search(len(l.freed), func(i int) bool { return l.freed[i].sequence > s.sequence })
	l.freed = append(l.freed, nil)
	copy(l.freed[i+1:], l.freed[i:])
	l.freed[i] = s
}

// maintenance recycles, in the background if there is one. wmu is held.
func (l *Log) maintenance() {
	if l.opt.PreallocateInBackground {
		l.wakeMaintenance()
		return
	}
	l.noteMaintenance(l.recycle())
}

func (l *Log) wakeMaintenance() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// maintain is the background goroutine: it recycles freed segments and keeps a
// spare ready, until Close.
func (l *Log) maintain() {
	defer l.done.Done()
	for {
		err := l.recycle()
		if err == nil {
			err = l.stockSpare()
		}
		l.noteMaintenance(err)
		select {
		case <-l.stop:
			return
		case <-l.kick:
		}
	}
}

func (l *Log) noteMaintenance(err error) {
	l.mu.Lock()
	l.stats.MaintenanceErr = err
	l.mu.Unlock()
}

// recycle turns freed segments into spares, or removes them where there are
// enough. It runs in one goroutine at a time: the background one, or whoever
// holds wmu where there is none. Failures lose nothing: dead segments stay dead,
// and the next call, or the next Open, tries again.
func (l *Log) recycle() error {
	for {
		l.mu.Lock()
		if l.stuck || len(l.freed) == 0 || l.freed[0].busy() {
			l.mu.Unlock()
			return nil
		}
		s := l.freed[0]
		keep := len(l.spares) < l.opt.MaxSpares && s.sizeBytes == l.opt.SegmentBytes
		l.mu.Unlock()
		if err := l.recycleOne(s, keep); err != nil {
			return err
		}
		select {
		case <-l.stop:
			return nil
		default:
		}
	}
}

// recycleOne recycles s, the first of the freed segments, which nobody uses.
func (l *Log) recycleOne(s *segment, keep bool) error {
	const op = "recycle wal segment"
	path := l.newSparePath()
	var err error
	if keep {
		err = l.fs.Rename(s.path, path)
	} else {
		err = l.fs.Remove(s.path)
	}
	if err != nil {
		return ioError(op, s.path, err)
	}
	// The old name must be gone for good before the file gets a new header.
	err = l.dirFile.Sync()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.freed = slices.DeleteFunc(l.freed, func(x *segment) bool { return x == s })
	l.stuck = err != nil
	if err == nil && keep {
		l.spares = append(l.spares, &spare{path: path, file: s.file})
		return nil // the file stays open, with the spare
	}
	s.retire()
	return ioError(op, l.dir, err)
}

func (l *Log) newSparePath() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spareSeq++
	return l.fs.PathJoin(l.dir, spareName(l.spareSeq))
}

// takeSpare returns a spare that is ready, or makes one that is allocated but
// not yet written: that takes no time now, but its syncs take longer.
func (l *Log) takeSpare() (*spare, error) {
	l.mu.Lock()
	if n := len(l.spares); n > 0 {
		sp := l.spares[0]
		l.spares = append(l.spares[:0], l.spares[1:]...)
		l.mu.Unlock()
		return sp, nil
	}
	l.stats.RolloversInline++
	l.mu.Unlock()
	sp, err := l.newSpare()
	if err != nil {
		return nil, err
	}
	// Not every file system can allocate; one that is full says so.
	if err := sp.file.Preallocate(0, l.opt.SegmentBytes); isNoSpace(err) {
		l.discard(sp)
		return nil, ioError("allocate wal segment", sp.path, err)
	}
	return sp, nil
}

func (l *Log) newSpare() (*spare, error) {
	path := l.newSparePath()
	f, err := l.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, ioError("create wal segment", path, err)
	}
	return &spare{path: path, file: f}, nil
}

func (l *Log) discard(sp *spare) {
	_ = sp.file.Close()
	_ = l.fs.Remove(sp.path)
}

// busyFill: a log that fills a segment faster than this has no disk to spare for
// zeros. It goes on with segments that are merely allocated, until written ones
// come back.
const busyFill = time.Second

// stockSpare makes a zeroed spare if there is none. An error leaves none; the
// appender then makes its own, or reports the same trouble.
func (l *Log) stockSpare() error {
	l.mu.Lock()
	enough := len(l.spares) > 0 || l.stats.Rollovers > 1 && l.fillTime < busyFill
	l.mu.Unlock()
	if enough {
		return nil
	}
	sp, err := l.zeroedSpare()
	if err != nil || sp == nil {
		return err
	}
	l.mu.Lock()
	l.spares = append(l.spares, sp)
	l.mu.Unlock()
	return nil
}

// zeroPause is how long to wait between two chunks of zeros, so that they are
// spread over half of the time in which a segment fills: the disk is also the
// appenders'.
func (l *Log) zeroPause() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return min(l.fillTime, maxFill) / 2 / time.Duration(max(1, l.opt.SegmentBytes/zeroChunkBytes))
}

// maxFill bounds what zeroPause goes by.
const maxFill = 10 * time.Second

// pauseZeroing waits for d. It returns false when Close intervenes, or when there
// is a written segment to recycle, which serves as well.
func (l *Log) pauseZeroing(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-l.stop:
			return false
		case <-timer.C:
			return true
		case <-l.kick:
		}
		l.mu.Lock()
		more := len(l.freed) > 0 && !l.freed[0].busy() && !l.stuck
		l.mu.Unlock()
		if more {
			l.wakeMaintenance()
			return false
		}
	}
}

// zeroedSpare returns nil without an error when pauseZeroing says that it is not
// wanted any more.
func (l *Log) zeroedSpare() (*spare, error) {
	const op = "preallocate wal segment"
	sp, err := l.newSpare()
	if err != nil {
		return nil, err
	}
	if err := sp.file.Preallocate(0, l.opt.SegmentBytes); isNoSpace(err) {
		l.discard(sp)
		return nil, ioError(op, sp.path, err)
	}
	pause := l.zeroPause()
	zeros := make([]byte, min(zeroChunkBytes, l.opt.SegmentBytes))
	for at := int64(0); at < l.opt.SegmentBytes; at += int64(len(zeros)) {
		if !l.pauseZeroing(pause) {
			l.discard(sp)
			return nil, nil
		}
		n := min(int64(len(zeros)), l.opt.SegmentBytes-at)
		_, err := sp.file.WriteAt(zeros[:n], at)
		if err == nil {
			err = sp.file.SyncData()
		}
		if err != nil {
			l.discard(sp)
			return nil, ioError(op, sp.path, err)
		}
	}
	return sp, nil
}
