package objstore_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/faultproxy"
	"github.com/pollux-dr/pollux/internal/s3test"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/objstore/objstoretest"
)

// startProxy puts a proxy before srv.
func startProxy(t *testing.T, srv *s3test.Server) *faultproxy.Proxy {
	t.Helper()
	p, err := faultproxy.NewHTTP(strings.TrimPrefix(srv.Endpoint, "http://"), 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// TestS3Faults creates a numbered stream through each fault of the network, and
// finds all of it afterwards.
func TestS3Faults(t *testing.T) {
	const objects, ahead = 40, 4
	for _, kind := range kinds {
		srv := startServer(t, kind)
		for name, faults := range map[string]faultproxy.Faults{
			"None":   {},
			"Refuse": {Refuse: true},
			"Stall":  {Stall: true},
			"Delay":  {Delay: 20 * time.Millisecond},
			"Cut":    {CutAfter: 200_000},
			"Drop":   {DropReply: 0.5},
			"500":    {Status: 500, StatusPart: 0.5},
			"503":    {Status: 503, StatusPart: 0.5},
			"429":    {Status: 429, StatusPart: 0.5},
			"Mixed":  {DropReply: 0.3, Status: 503, StatusPart: 0.3, CutAfter: 400_000, Delay: time.Millisecond},
		} {
			t.Run(kind+"/"+name, func(t *testing.T) {
				p := startProxy(t, srv)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				var retries atomic.Int64
				s := objstore.WithRetry(openS3(t, srv, "http://"+p.Addr(),
					objstore.Options{Timeout: 300 * time.Millisecond}), objstore.Policy{
					MinBackoff: time.Millisecond, MaxBackoff: 10 * time.Millisecond,
					Notify: func(error) {
						// What lets nothing through has to end some time.
						if retries.Add(1) == 2*ahead && (faults.Refuse || faults.Stall) {
							p.Set(faultproxy.Faults{})
						}
					},
				})
				defer func() { _ = s.Close() }()
				object := func(i int) string { return fmt.Sprintf("log/%020d", i) }
				body := func(i int) []byte { return objstoretest.Bytes(uint64(i), i*3000) }
				p.Set(faults)
				var g errgroup.Group
				g.SetLimit(ahead)
				for i := range objects {
					g.Go(func() error { return s.Create(ctx, object(i), body(i)) })
				}
				if err := g.Wait(); err != nil {
					t.Fatal(err)
				}
				for i := range objects { // the reads meet the fault as well
					b, err := s.Read(ctx, object(i), 0, -1, nil)
					if err != nil || !bytes.Equal(b, body(i)) {
						t.Fatalf("object %d: %d bytes, %v", i, len(b), err)
					}
				}
				if trouble := name != "None" && name != "Delay"; trouble != (retries.Load() > 0) {
					t.Errorf("%d retries", retries.Load())
				}
				if err := s.Create(ctx, object(0), []byte("other")); !fail.Is(err, fail.Exists) {
					t.Errorf("create again: %v", err)
				}
			})
		}
	}
}

// TestS3Forbidden: a 403 is never waited out in silence nor taken for absence.
func TestS3Forbidden(t *testing.T) {
	srv := startServer(t, s3test.VersityGW)
	p := startProxy(t, srv)
	s := objstore.WithRetry(openS3(t, srv, "http://"+p.Addr(), objstore.Options{}), objstore.Policy{})
	defer func() { _ = s.Close() }()
	p.Set(faultproxy.Faults{Status: 403, StatusPart: 1})
	if err := s.Create(t.Context(), "x", nil); !fail.Is(err, fail.Denied) {
		t.Errorf("create: %v", err)
	}
	if _, err := s.Read(t.Context(), "absent", 0, -1, nil); !fail.Is(err, fail.Denied) {
		t.Errorf("read: %v", err)
	}
}

// TestS3WrongServer: the bucket is not there, or the keys are others'.
func TestS3WrongServer(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			srv := startServer(t, kind)
			for _, tt := range []struct {
				url, creds string
				kind       fail.Kind
			}{
				{"s3://absent/p", srv.CredentialsFile, fail.Invalid},
				{"s3://" + bucket, credentialsFile(t, "", "nobody", "secret-of-nobody"), fail.Denied},
				{"s3://" + bucket, credentialsFile(t, "", "pollux-test", "wrong-secret"), fail.Denied},
			} {
				s := open(t, tt.url, objstore.Options{Endpoint: srv.Endpoint, CredentialsFile: tt.creds})
				_, readErr := s.Read(t.Context(), "x", 0, -1, nil)
				_, sizeErr := s.Size(t.Context(), "x")
				for what, err := range map[string]error{
					"create": s.Create(t.Context(), "x", []byte("body")),
					"read":   readErr,
					"size":   sizeErr,
					"list":   s.List(t.Context(), "", "", func(objstore.Info) error { return nil }),
				} {
					if !fail.Is(err, tt.kind) || fail.HintOf(err) == "" {
						t.Errorf("%s of %s: %v, kind %v, hint %q", what, tt.url, err, fail.KindOf(err),
							fail.HintOf(err))
					}
				}
				_ = s.Close()
			}
		})
	}
}

// TestS3RefusedUnheard creates over a slow link what is there already, its own and another's. A
// server may refuse that before it has read the body, and close the connection: then the answer
// does not come through, however often it is asked for.
func TestS3RefusedUnheard(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			srv := startServer(t, kind)
			p := startProxy(t, srv)
			s := objstore.WithRetry(openS3(t, srv, "http://"+p.Addr(), objstore.Options{}),
				objstore.Policy{MinBackoff: time.Millisecond, MaxBackoff: 10 * time.Millisecond})
			body := bytes.Repeat([]byte("slow"), 1<<18)
			if err := s.Create(t.Context(), "x", body); err != nil {
				t.Fatal(err)
			}
			p.Set(faultproxy.Faults{BytesPerSecond: 8 << 20})
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if err := s.Create(ctx, "x", body); err != nil {
				t.Errorf("its own: %v", err)
			}
			if err := s.Create(ctx, "x", bytes.Repeat([]byte("fast"), 1<<18)); !fail.Is(err, fail.Exists) {
				t.Errorf("another's: %v", err)
			}
		})
	}
}
