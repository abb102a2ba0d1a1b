package objstore_test

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/objstore/objstoretest"
)

// stopping lets answers through whose body has `longest` bytes at most. Of others `part`
// bytes come; then the connection is cut, or hangs where hold is set until its client goes.
type stopping struct {
	http.ResponseWriter
	r             *http.Request
	longest, part int
	hold          bool
	sent          *atomic.Int64 // bytes of bodies
	left          int
	stop, refused bool
}

func (s *stopping) WriteHeader(status int) {
	n, _ := strconv.Atoi(s.Header().Get("Content-Length"))
	if s.left, s.stop = n, n > s.longest; s.stop {
		s.left = s.part
	}
	s.ResponseWriter.WriteHeader(status)
	if s.refused = status >= 400; s.refused { // as S3 says it
		_, _ = io.WriteString(s.ResponseWriter, "<Error><Code>InvalidRange</Code></Error>")
	}
}

func (s *stopping) Write(b []byte) (int, error) {
	if s.refused {
		return len(b), nil
	}
	n, err := s.ResponseWriter.Write(b[:min(len(b), s.left)])
	s.sent.Add(int64(n))
	if s.left -= n; err != nil || !s.stop || s.left > 0 {
		return n, err
	}
	if s.part > 0 {
		s.ResponseWriter.(http.Flusher).Flush()
	}
	if s.hold {
		<-s.r.Context().Done()
	}
	panic(http.ErrAbortHandler)
}

// TestReadThroughCuts: what is in between stops each long answer. All ranges are read
// nevertheless, in pieces that get through, and what came is not asked for again.
func TestReadThroughCuts(t *testing.T) {
	const size, longest = 3 << 20, 200_000
	object := objstoretest.Bytes(1, size)
	for _, tt := range []struct {
		name string
		part int
		hold bool
	}{
		{"cut", longest, false},
		{"held", longest, true},
		{"held, nothing came", 0, true},
		{"held, next to nothing came", 1, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var sent atomic.Int64
			inner := openFake(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("ETag", `"x"`)
				w = &stopping{ResponseWriter: w, r: r, longest: longest, part: tt.part, hold: tt.hold, sent: &sent}
				http.ServeContent(w, r, "", time.Now(), bytes.NewReader(object))
			}, objstore.Options{Timeout: 100 * time.Millisecond})
			s := objstore.WithRetry(inner, objstore.Policy{
				MinBackoff: time.Millisecond, MaxBackoff: 2 * time.Millisecond,
				Patience: func(bool) time.Duration { return 10 * time.Second },
			})
			for _, r := range []struct{ off, n, start, end int64 }{
				{0, -1, 0, size},
				{0, size, 0, size},
				{0, size + 100, 0, size},
				{1000, 2_000_001, 1000, 2_001_001},
				{-1_500_000, 0, size - 1_500_000, size},
				{-2 * size, 0, 0, size},
				{size, 10, size, size},
				{size - 5, -1, size - 5, size},
			} {
				sent.Store(0)
				b, err := s.Read(t.Context(), "x", r.off, r.n, make([]byte, 0, 100))
				if err != nil || !bytes.Equal(b, object[r.start:r.end]) {
					t.Fatalf("read of %d from %d: %d bytes, %v", r.n, r.off, len(b), err)
				}
				if n := sent.Load(); n > r.end-r.start+longest {
					t.Errorf("read of %d from %d: %d bytes were sent", r.n, r.off, n)
				}
			}
		})
	}
}

// TestReadWholeAgain: once answers get through, they are asked for whole again.
func TestReadWholeAgain(t *testing.T) {
	const size = 1 << 20
	object := objstoretest.Bytes(1, size)
	var longest, asked atomic.Int64
	longest.Store(100_000)
	inner := openFake(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("ETag", `"x"`)
		w = &stopping{ResponseWriter: w, r: r, longest: int(longest.Load()), part: 100_000, sent: new(atomic.Int64)}
		http.ServeContent(w, r, "", time.Now(), bytes.NewReader(object))
	}, objstore.Options{})
	s := objstore.WithRetry(inner, objstore.Policy{MinBackoff: time.Millisecond})
	read := func() int64 {
		asked.Store(0)
		if b, err := s.Read(t.Context(), "x", 0, size, nil); err != nil || !bytes.Equal(b, object) {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
		return asked.Load()
	}
	if n := read(); n < size/100_000 || n > 2*size/(64<<10) {
		t.Errorf("%d requests where long answers are cut", n)
	}
	longest.Store(size)
	for n := 0; read() > 1; n++ {
		if n == 200 {
			t.Fatal("still in pieces after many reads")
		}
	}
}
