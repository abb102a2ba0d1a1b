package objstore_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/objstore/objstoretest"
)

// BenchmarkS3Create creates one object after the other over a warm connection.
func BenchmarkS3Create(b *testing.B) {
	for _, kind := range kinds {
		for _, size := range []int{64 << 10, 1 << 20, 8 << 20} {
			b.Run(fmt.Sprintf("%s/%dKiB", kind, size>>10), func(b *testing.B) {
				srv := startServer(b, kind)
				s := openS3(b, srv, srv.Endpoint, objstore.Options{})
				defer func() { _ = s.Close() }()
				body := objstoretest.Bytes(1, size)
				var times []time.Duration
				b.SetBytes(int64(size))
				for i := 0; b.Loop(); i++ {
					begin := time.Now()
					if err := s.Create(b.Context(), fmt.Sprintf("log/%020d", i), body); err != nil {
						b.Fatal(err)
					}
					times = append(times, time.Since(begin))
				}
				slices.Sort(times)
				b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "p50-ms")
			})
		}
	}
}

// BenchmarkS3Read reads objects of 8 MiB, four at a time.
func BenchmarkS3Read(b *testing.B) {
	const size, parallel = 8 << 20, 4
	for _, kind := range kinds {
		b.Run(kind, func(b *testing.B) {
			srv := startServer(b, kind)
			s := openS3(b, srv, srv.Endpoint, objstore.Options{})
			defer func() { _ = s.Close() }()
			if err := s.Create(b.Context(), "object", objstoretest.Bytes(1, size)); err != nil {
				b.Fatal(err)
			}
			bufs := make([][]byte, parallel)
			b.SetBytes(parallel * size)
			for b.Loop() {
				var g errgroup.Group
				for i := range parallel {
					g.Go(func() (err error) {
						bufs[i], err = s.Read(b.Context(), "object", 0, -1, bufs[i])
						return err
					})
				}
				if err := g.Wait(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
