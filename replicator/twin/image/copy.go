package image

import (
	"bytes"
	"context"
	"errors"
	"os"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Copy writes a device's content to a new file: all that is not zeros. It returns how much
// that was. read fills p from an offset.
func (t *Target) Copy(ctx context.Context, read func(ctx context.Context, p []byte, off int64) error, o Options) (
	copied int64, err error) {
	if err := t.open(false, nil); err != nil {
		return 0, err
	}
	progress, end := o.stage("copying")
	copied, err = t.copyData(ctx, read, func(done int64) {
		if progress != nil {
			progress(done, t.Size)
		}
	})
	end()
	if err != nil {
		return copied, errors.Join(err, t.file.Close(), os.Remove(t.partial()))
	}
	return copied, t.finish()
}

func (t *Target) copyData(ctx context.Context, read func(context.Context, []byte, int64) error,
	progress func(done int64)) (copied int64, err error) {
	b, none := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < t.Size; off += int64(len(b)) {
		p := b[:min(int64(len(b)), t.Size-off)]
		if err := read(ctx, p, off); err != nil {
			return copied, err
		}
		if !bytes.Equal(p, none[:len(p)]) {
			if _, err := t.file.WriteAt(p, off); err != nil {
				return copied, fail.Wrap(fail.Full, "write", t.file.Name(), err)
			}
			copied += int64(len(p))
		}
		progress(off + int64(len(p)))
	}
	return copied, nil
}
