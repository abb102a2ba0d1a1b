package block

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Space that was allocated and not written reads as zeros, and SEEK_DATA says that it is a
// hole, until somebody reads it: then it takes the pages of zeros in the cache for data.

const (
	fsIocFiemap        = 0xC020660B
	fiemapUnwritten    = 0x800
	fiemapLast         = 0x1
	fiemapExtentsAtOne = 128
)

type fiemapExtent struct {
	logical, physical, length uint64
	_                         [2]uint64
	flags                     uint32
	_                         [3]uint32
}

type fiemap struct {
	start, length                uint64
	flags, mapped, count, unused uint32
	extents                      [fiemapExtentsAtOne]fiemapExtent
}

// ForgetUnwritten drops what the cache holds of the unwritten space of an open file in
// [from, to), as far as it looked, and reports whether there was any. Only clean pages go:
// what was written and is not on disk yet stays, so that SEEK_DATA, which decides, is
// never wrong. Where the filesystem does not tell, nothing is done.
func ForgetUnwritten(fd int, from, to int64) (looked int64, some bool) {
	m := fiemap{start: uint64(from), length: uint64(to - from), count: fiemapExtentsAtOne}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), fsIocFiemap, uintptr(unsafe.Pointer(&m)))
	if errno != 0 || m.mapped == 0 || m.mapped > m.count {
		return to, false
	}
	for _, e := range m.extents[:m.mapped] {
		if e.flags&fiemapUnwritten == 0 {
			continue
		}
		off, end := max(int64(e.logical), from), min(int64(e.logical+e.length), to)
		if off < end && unix.Fadvise(fd, off, end-off, unix.FADV_DONTNEED) == nil {
			some = true
		}
	}
	last := m.extents[m.mapped-1]
	if end := int64(last.logical + last.length); m.mapped == m.count && last.flags&fiemapLast == 0 && end > from &&
		end < to {
		return end, some
	}
	return to, some
}
