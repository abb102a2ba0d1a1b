package liartest

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/liar"
	"github.com/pollux-dr/pollux/internal/s3test"
	"github.com/pollux-dr/pollux/replicator/logtest"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/gc"
)

const (
	bucket     = "lies"
	volumeSize = 256 << 10
	// passing is how many lies a verb waits out; patience is how many failures it does.
	passing, patience = 3, 12
	// enough is far more than any call takes.
	enough = time.Minute
)

// TestMain lets several run at once on a machine of few cores: what a lie costs is waits.
func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", strconv.Itoa(max(6, runtime.GOMAXPROCS(0)))); err != nil {
		panic(err)
	}
	flag.Parse()
	os.Exit(m.Run())
}

func startServer(t *testing.T) *s3test.Server {
	t.Helper()
	srv, err := s3test.StartVerbose(t.Context(), s3test.VersityGW, t.TempDir(), func(m string) { t.Log(m) })
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

// lying is a prefix of a bucket, seen through a liar and as it is.
type lying struct {
	*liar.Liar
	srv           *s3test.Server
	front         *httptest.Server
	prefix        string
	honest, store objstore.Store
}

var prefixes atomic.Int64

// newLying makes an empty prefix.
func newLying(t *testing.T, srv *s3test.Server) *lying {
	return lyingAt(t, srv, fmt.Sprintf("p%d", prefixes.Add(1)))
}

func lyingAt(t *testing.T, srv *s3test.Server, prefix string) *lying {
	t.Helper()
	l := &lying{Liar: liar.New(strings.TrimPrefix(srv.Endpoint, "http://")), srv: srv, prefix: prefix}
	l.front = httptest.NewServer(l.Liar)
	l.honest = open(t, srv, srv.Endpoint, prefix, enough)
	l.store = open(t, srv, l.front.URL, prefix, 500*time.Millisecond)
	t.Cleanup(func() {
		_, _ = l.honest.Close(), l.store.Close() // connections
		l.front.CloseClientConnections()
		l.front.Close()
		l.Close()
	})
	return l
}

func open(t *testing.T, srv *s3test.Server, endpoint, prefix string, timeout time.Duration) objstore.Store {
	t.Helper()
	s, err := objstore.Open(t.Context(), "s3://"+bucket+"/"+prefix,
		objstore.Options{Endpoint: endpoint, CredentialsFile: srv.CredentialsFile, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// verb is the lying store for one run of a verb, with its patience.
func (l *lying) verb() objstore.Store {
	var tries atomic.Int32
	return objstore.WithRetry(l.store, objstore.Policy{MinBackoff: time.Millisecond, MaxBackoff: 10 * time.Millisecond,
		Retryable: func(err error) bool { return fail.Is(err, fail.Retry) && tries.Add(1) <= patience }})
}

// writeLog writes a log with a catalog in its middle, and returns its writer.
func writeLog(t *testing.T, s objstore.Store, seed uint64) *logtest.Log {
	t.Helper()
	l := logtest.New(t, s)
	l.Keeping = true
	r := rand.New(rand.NewPCG(seed, 1))
	l.Volume("v", volumeSize)
	l.Random(r, 8)
	if _, err := gc.Catalog(t.Context(), s, gc.Options{Dir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	l.Random(r, 8)
	return l
}

// image is a restore's target in memory.
type image struct{ bytes []byte }

func (m *image) WriteAt(p []byte, off int64) (int, error) { return copy(m.bytes[off:], p), nil }

// restore is the verb, of the newest point.
func restore(ctx context.Context, s objstore.Store) ([]byte, uint64, error) {
	l, p, err := newest(ctx, s)
	if err != nil {
		return nil, 0, err
	}
	m := &image{make([]byte, volumeSize)}
	_, err = l.Restore(ctx, p, m)
	return m.bytes, p.LSN, err
}

func newest(ctx context.Context, s objstore.Store) (*twin.Log, twin.Point, error) {
	l, err := twin.Open(ctx, s, nil)
	if err != nil {
		return nil, twin.Point{}, err
	}
	v, err := l.Volume("v")
	if err != nil {
		return nil, twin.Point{}, err
	}
	p, err := l.Resolve(ctx, v, "", time.Now())
	return l, p, err
}

// verify is the verb.
func verify(ctx context.Context, s objstore.Store) error {
	totals, err := twin.Examine(ctx, s, func(*twin.Object) error { return nil })
	if err != nil {
		return err
	}
	return totals.Err()
}

// checkError: a verb that cannot ends with an error that says of which object.
func checkError(t *testing.T, err error) {
	t.Helper()
	if err != nil && (fail.Is(err, fail.Internal) || !strings.Contains(err.Error(), "s3://"+bucket)) {
		t.Errorf("the error is of kind %v and names no object: %v", fail.KindOf(err), err)
	}
}

// checkImage: what was restored is what the volume held at that LSN, which is the newest.
func checkImage(t *testing.T, log *logtest.Log, lie *liar.Lie, got []byte, lsn uint64) {
	t.Helper()
	if lsn != log.Point.LSN && !lie.Stale {
		t.Errorf("LSN %d, and the newest is %d", lsn, log.Point.LSN)
	}
	want := log.History[lsn]["v"]
	if want == nil || !bytes.Equal(got, want) {
		t.Errorf("the image is not the volume's at LSN %d", lsn)
	}
}
