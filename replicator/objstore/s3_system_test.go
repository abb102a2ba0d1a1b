package objstore_test

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pollux-dr/pollux/internal/s3test"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/objstore/objstoretest"
)

const bucket = "pollux"

var kinds = []string{s3test.VersityGW, s3test.MinIO}

// startServer returns a server with an empty bucket.
func startServer(t testing.TB, kind string) *s3test.Server {
	t.Helper()
	srv, err := s3test.StartVerbose(t.Context(), kind, t.TempDir(), func(m string) { t.Log(m) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := srv.CreateBucket(t.Context(), bucket); err != nil {
		t.Fatal(err)
	}
	return srv
}

var prefixes atomic.Int64

// openS3 opens a store under a prefix of its own.
func openS3(t testing.TB, srv *s3test.Server, endpoint string, opts objstore.Options) objstore.Store {
	t.Helper()
	opts.Endpoint, opts.CredentialsFile = endpoint, srv.CredentialsFile
	s, err := objstore.Open(t.Context(), fmt.Sprintf("s3://%s/p%d", bucket, prefixes.Add(1)), opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestS3(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			srv := startServer(t, kind)
			open := func(t *testing.T) objstore.Store { return openS3(t, srv, srv.Endpoint, objstore.Options{}) }
			t.Run("Plain", func(t *testing.T) { objstoretest.Run(t, open) })
			t.Run("Troubled", func(t *testing.T) {
				objstoretest.Run(t, func(t *testing.T) objstore.Store { return troubled(open(t)) })
			})
		})
	}
}

// TestS3Kill kills the server again and again below a stream of creates.
func TestS3Kill(t *testing.T) {
	const kills, ahead = 4, 3
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			srv := startServer(t, kind)
			s := objstore.WithRetry(openS3(t, srv, srv.Endpoint, objstore.Options{Timeout: 5 * time.Second}),
				objstore.Policy{MinBackoff: 5 * time.Millisecond, MaxBackoff: 50 * time.Millisecond})
			defer func() { _ = s.Close() }()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()

			var next, acked atomic.Int64
			var stop atomic.Bool
			name := func(i int64) string { return fmt.Sprintf("log/%020d", i) }
			body := func(i int64) []byte { return objstoretest.Bytes(uint64(i), 1+int(i*7919%300_000)) }
			var g errgroup.Group
			for range ahead {
				g.Go(func() error {
					for !stop.Load() {
						i := next.Add(1) - 1
						if err := s.Create(ctx, name(i), body(i)); err != nil {
							return err
						}
						acked.Add(1)
					}
					return nil
				})
			}
			for range kills {
				for seen := acked.Load(); acked.Load() < seen+20 && ctx.Err() == nil; {
					time.Sleep(time.Millisecond)
				}
				if err := srv.Restart(ctx); err != nil {
					t.Fatal(err)
				}
			}
			stop.Store(true)
			if err := g.Wait(); err != nil {
				t.Fatal(err)
			}
			// All creates returned nil in the end, so there is no gap at all.
			var count int64
			if err := s.List(ctx, "log/", "", func(i objstore.Info) error {
				if i.Name != name(count) {
					return fmt.Errorf("object %d is %s", count, i.Name)
				}
				count++
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if count != next.Load() {
				t.Fatalf("%d objects, %d were created", count, next.Load())
			}
			for i := range count {
				if b, err := s.Read(ctx, name(i), 0, -1, nil); err != nil || !bytes.Equal(b, body(i)) {
					t.Fatalf("object %d: %v, %d bytes", i, err, len(b))
				}
			}
		})
	}
}
