package twin

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/twin/extentmap"
)

// Verify reads an image back and compares it with the store: the data of the plan,
// which was made without a base, is fetched once more, and all else must be zeros. A
// difference is fail.Damaged.
func (pl *Plan) Verify(ctx context.Context, r io.ReaderAt, run Run) error {
	_, err := pl.Each(ctx, run, func(e *extent.Extent, data []byte) error {
		got := make([]byte, len(data))
		if _, err := r.ReadAt(got, e.Off); err != nil {
			return fail.Wrap(fail.Damaged, "read back", fmt.Sprintf("the image at byte %d", e.Off), err)
		}
		if !bytes.Equal(got, data) {
			return fail.New(fail.Damaged, "compare",
				fmt.Sprintf("the image at byte %d", e.Off+int64(firstDiffers(got, data))), "it differs from the store")
		}
		return nil
	})
	if err != nil {
		return err
	}
	m, at := pl.image.Map, int64(0)
	err = pl.image.Current(ctx, func() error { return betweenZeros(ctx, r, m, &at) })
	if err != nil {
		return err
	}
	return zeros(ctx, r, at, m.SizeBytes)
}

// betweenZeros checks what lies between the extents of a map, from at on.
func betweenZeros(ctx context.Context, r io.ReaderAt, m *extentmap.Map, at *int64) error {
	return m.Each(ctx, false, func(_ int64, extents []extent.Extent) error {
		for i := range extents {
			if err := zeros(ctx, r, *at, extents[i].Off); err != nil {
				return err
			}
			*at = max(*at, extents[i].End())
		}
		return nil
	})
}

func firstDiffers(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

// zeros checks that [from, to) reads as zeros.
func zeros(ctx context.Context, r io.ReaderAt, from, to int64) error {
	var none, buf [64 << 10]byte
	sparse, _ := r.(interface{ NextData(off int64) int64 })
	for from < to && ctx.Err() == nil {
		if sparse != nil { // a hole need not be read
			if from = max(from, sparse.NextData(from)); from >= to {
				break
			}
		}
		b := buf[:min(to-from, int64(len(buf)))]
		if _, err := r.ReadAt(b, from); err != nil {
			return fail.Wrap(fail.Damaged, "read back", fmt.Sprintf("the image at byte %d", from), err)
		}
		if !bytes.Equal(b, none[:len(b)]) {
			return fail.New(fail.Damaged, "compare",
				fmt.Sprintf("the image at byte %d", from+int64(firstDiffers(b, none[:]))),
				"it is not zero, and the store has nothing there")
		}
		from += int64(len(b))
	}
	return ctx.Err()
}
