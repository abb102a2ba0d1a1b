package block

import (
	"context"
	"errors"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// zeroAlignBytes is what the ranges given to a block device's fallocate are
// aligned to; it covers every logical block size in use.
const zeroAlignBytes = 4096

var zeros [64 << 10]byte

// Zero implements Device. A hole is punched, or with noHole the range is
// zeroed in place; where the file system or device can do neither, zeros are
// written.
func (d *File) Zero(ctx context.Context, off, n int64, noHole, fua bool) error {
	modes := []uint32{unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_ZERO_RANGE}
	if noHole {
		modes = modes[1:]
	}
	return d.clear(ctx, "zero", off, n, modes, fua)
}

// Trim implements Device. It punches a hole, which unlike a device's discard
// always reads as zeros, or writes zeros where that is not supported.
func (d *File) Trim(ctx context.Context, off, n int64, fua bool) error {
	return d.clear(ctx, "trim", off, n, []uint32{unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_ZERO_RANGE}, fua)
}

func (d *File) clear(ctx context.Context, op string, off, n int64, modes []uint32, fua bool) error {
	if err := d.checkWrite(op, off, n); err != nil {
		return err
	}
	if n == 0 {
		return d.syncIf(fua)
	}
	from, to := off, off+n
	if d.isDevice { // only whole sectors go to the device; the edges are written
		from = min((from+zeroAlignBytes-1)/zeroAlignBytes*zeroAlignBytes, to)
		to = max(to/zeroAlignBytes*zeroAlignBytes, from)
	}
	if err := d.writeZeros(ctx, off, from); err != nil {
		return d.wrap(op, err)
	}
	if err := d.clearMiddle(ctx, from, to, modes); err != nil {
		return d.wrap(op, err)
	}
	if err := d.writeZeros(ctx, to, off+n); err != nil {
		return d.wrap(op, err)
	}
	return d.syncIf(fua)
}

func (d *File) clearMiddle(ctx context.Context, from, to int64, modes []uint32) error {
	if from == to {
		return nil
	}
	for _, mode := range modes {
		unsupported := d.unsupported(mode)
		if unsupported.Load() {
			continue
		}
		err := d.control(func(fd int) error {
			return unix.Fallocate(fd, mode|unix.FALLOC_FL_KEEP_SIZE, from, to-from)
		})
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENODEV):
			unsupported.Store(true)
		case errors.Is(err, unix.EINVAL): // this range only
		default:
			return err
		}
	}
	return d.writeZeros(ctx, from, to)
}

func (d *File) unsupported(mode uint32) *atomic.Bool {
	if mode == unix.FALLOC_FL_PUNCH_HOLE {
		return &d.noPunch
	}
	return &d.noZeroRange
}

// FastZero says whether Zero is faster than writing zeros. It is learnt from
// use: the first slow Zero may follow a true.
func (d *File) FastZero(noHole bool) bool {
	return !d.noZeroRange.Load() || !noHole && !d.noPunch.Load()
}

func (d *File) writeZeros(ctx context.Context, from, to int64) error {
	for from < to {
		if err := ctx.Err(); err != nil {
			return err
		}
		p := zeros[:min(int64(len(zeros)), to-from)]
		if _, err := d.f.WriteAt(p, from); err != nil {
			return err
		}
		from += int64(len(p))
	}
	return nil
}

// deviceSizeBytes asks a block device for its size by BLKGETSIZE64.
func deviceSizeBytes(f *os.File) (int64, error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var size int
	var opErr error
	if err := rc.Control(func(fd uintptr) { size, opErr = unix.IoctlGetInt(int(fd), unix.BLKGETSIZE64) }); err != nil {
		return 0, err
	}
	return int64(size), opErr
}
