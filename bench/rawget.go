package bench

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// rawGets is how many objects are fetched at once: as many as a restore does.
const rawGets = 4

// rawGet fetches whole objects in parallel and writes their bytes, as they are,
// to a file of the image's size: what a restore would cost if it had nothing to
// check, decode or decide. Objects are compressed, so each one's bytes are
// written over and over until its share of total is there.
func (s *session) rawGet(ctx context.Context, url, path string, objects []objstore.Info, total int64) error {
	st, err := s.open(ctx, url, 0)
	if err != nil {
		return err
	}
	defer st.Close()
	f, err := createImage(path, int64(s.o.Size))
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(rawGets)
	parts := shares(objects, total)
	for i, o := range objects {
		g.Go(func() error {
			b, err := st.Read(gctx, o.Name, 0, -1, make([]byte, 0, o.Bytes))
			if err != nil || len(b) == 0 {
				return err
			}
			for off, end := parts[i], parts[i+1]; off < end; {
				n, err := f.WriteAt(b[:min(int64(len(b)), end-off)], off)
				if err != nil {
					return fail.Wrap(fail.Full, "write", path, err)
				}
				off += int64(n)
			}
			return nil
		})
	}
	err = g.Wait()
	if err == nil {
		err = fail.Wrap(fail.Full, "sync", path, f.Sync())
	}
	return errors.Join(err, f.Close())
}

// shares divides total among objects by their sizes: object i gets the bytes
// from shares[i] to shares[i+1].
func shares(objects []objstore.Info, total int64) []int64 {
	sum := int64(0)
	for _, o := range objects {
		sum += o.Bytes
	}
	out := make([]int64, len(objects)+1)
	done := int64(0)
	for i, o := range objects {
		done += o.Bytes
		if sum > 0 {
			out[i+1] = int64(float64(total) * (float64(done) / float64(sum)))
		}
	}
	if len(objects) > 0 && sum > 0 {
		out[len(objects)] = total
	}
	return out
}
