package standby

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/s3test"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
)

// wire is the way of one site to the store. It delays, and remembers.
type wire struct {
	*httptest.Server
	oneWay atomic.Int64 // ns

	mu   sync.Mutex
	seen []request
}

type request struct {
	method, path string
	status       int
	began, ended time.Time // at the site
}

func newWire(t *testing.T, store string) *wire {
	to, err := url.Parse(store)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host // it is signed
	}, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), ModifyResponse: func(r *http.Response) error {
		time.Sleep(time.Duration(w.oneWay.Load()))
		w.mu.Lock()
		defer w.mu.Unlock()
		began, _ := r.Request.Context().Value(w).(time.Time)
		w.seen = append(w.seen, request{r.Request.Method, r.Request.URL.Path + "?" + r.Request.URL.RawQuery,
			r.StatusCode, began, time.Now()})
		return nil
	}}
	w.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		began := time.Now()
		time.Sleep(time.Duration(w.oneWay.Load()))
		proxy.ServeHTTP(rw, r.WithContext(context.WithValue(r.Context(), w, began)))
	}))
	t.Cleanup(w.Close)
	return w
}

// between are the requests that were sent in a time, and that ok lets pass.
func (w *wire) between(from, to time.Time, ok func(*request) bool) (out []request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.seen {
		if !r.began.Before(from) && r.began.Before(to) && ok(&r) {
			out = append(out, r)
		}
	}
	return out
}

// over gives a configuration the S3 store at the end of a wire.
func (p *pair) over(w *wire, host string) *config.Agent {
	p.t.Helper()
	path := filepath.Join(p.dir, host+".yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		p.t.Fatal(err)
	}
	s3 := strings.Replace(string(text), "'file://"+p.dir+"/bucket'",
		"'s3://bkt/p', region: us-east-1, endpoint: '"+w.URL+"'", 1)
	if err := os.WriteFile(path, []byte(s3), 0o600); err != nil {
		p.t.Fatal(err)
	}
	c, err := config.LoadAgent(path)
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

// bucket starts an S3 store with one, and returns where it is.
func bucket(t *testing.T) (endpoint string) {
	t.Helper()
	store, err := s3test.Start(t.Context(), s3test.VersityGW, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Stop() })
	if err := store.CreateBucket(context.Background(), "bkt"); err != nil {
		t.Fatal(err)
	}
	for _, kv := range store.Env() {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
	return store.Endpoint
}

// TestHandOverRoundTrips counts what clients wait for in a hand-over to a site where they are parked:
// what the seat still writes goes over the distance at once, and no object waits for another; the other
// site writes one, its fence, reads no object of the log that it had read before, and asks its store for
// little else.
func TestHandOverRoundTrips(t *testing.T) {
	p := newPair(t)
	p.parking("")
	endpoint := bucket(t)
	far, near := newWire(t, endpoint), newWire(t, endpoint)
	p.a, p.b = p.over(far, "a"), p.over(near, "b")
	a := p.seat("v")
	defer p.close(a)
	d := p.start(nil)
	defer p.close(d)
	p.follows(d, 1)
	for i := range int64(segment.MaxInFlight) { // behind its fence, a writer sends one object at a time
		p.write(p.a, "v", 131072+i*8192, 'B')
		p.drained(p.a)
	}
	const oneWay = 100 * time.Millisecond
	far.oneWay.Store(int64(oneWay))
	v := p.attach("v", 65536, 'P')
	defer v.Close()
	began := time.Now()
	var out api.HandOverReport
	p.call(p.a, api.VerbHandOver, api.HandOver{To: "busan"}, &out)
	v.goesOn(t, 'A')
	served := time.Now()

	ready := far.between(began, served, func(r *request) bool {
		return strings.Contains(r.path, "/handover/") && r.status/100 == 2
	})
	if len(ready) != 1 {
		t.Fatalf("the seat saw %d answers", len(ready))
	}
	held := ready[0].ended // what comes next is that I/O waits
	write := func(r *request) bool { return r.method == http.MethodPut }
	fences := near.between(held, served, write)
	if len(fences) == 0 {
		t.Fatal("there is no fence")
	}
	fence := fences[0]
	wrote := far.between(held, fence.began, write)
	for _, r := range wrote {
		if gap := r.began.Sub(wrote[0].ended); gap > 0 && gap < oneWay/5 {
			t.Errorf("the seat waited for one object before it wrote the next: %v", wrote)
		}
	}
	if len(wrote) == 0 || len(wrote) > 2 { // a mark, and the entry that hands over
		t.Errorf("the seat wrote %d objects while I/O waited", len(wrote))
	}
	before := near.between(began, fence.began, func(r *request) bool {
		return r.status/100 == 2 && strings.Contains(r.path, "/log/") && !strings.Contains(r.path, "prefix=")
	})
	read := map[string]int{} // objects of the log, while clients waited
	for _, r := range before {
		if !r.began.Before(held) {
			read[r.path]++
		}
	}
	asked := near.between(held, fence.ended, func(r *request) bool { return r.status/100 == 2 })
	t.Logf("I/O waited for %.1f ways there and back, in which the site asked its store for %d objects and lists, and "+
		"read %v of the log", float64(served.Sub(held))/float64(2*oneWay), len(asked), read)
	answers := near.between(began, held, func(r *request) bool { // each when the site had read all that there was
		return strings.Contains(r.path, "/handover/") && write(r)
	})
	coming := far.between(began, held, func(r *request) bool {
		return strings.Contains(r.path, "/log/") && write(r) && r.ended.After(answers[0].began)
	})
	if len(read) > 1+len(coming)+len(wrote) { // the identity, and what came after the answer
		t.Errorf("of the log it read %v", read)
	}
	if len(asked) > 10 {
		t.Errorf("it asked for %v", asked)
	}
}
