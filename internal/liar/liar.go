package liar

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// Liar is an S3 server's front.
type Liar struct {
	upstream string // host:port
	client   http.Client

	mu    sync.Mutex
	lie   *Lie
	left  int // lies still to be told; below 0 without end
	match string
	told  int
}

// New stands before the server at upstream (host:port).
func New(upstream string) *Liar {
	t := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	return &Liar{upstream: upstream, client: http.Client{Transport: t}}
}

// Close gives back the connections to the server.
func (l *Liar) Close() { l.client.CloseIdleConnections() }

// Tell has the next n requests of the lie's kind whose URL contains match answered by it;
// n below 0 is all of them. It replaces the lie before. nil is the truth.
func (l *Liar) Tell(lie *Lie, n int, match string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lie, l.left, l.match, l.told = lie, n, match, 0
}

// Told is how many lies were told since Tell.
func (l *Liar) Told() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.told
}

// pick is the lie for a request, nil for the truth.
func (l *Liar) pick(r *http.Request) *Lie {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lie == nil || l.left == 0 || !strings.Contains(r.URL.String(), l.match) || !l.lie.about(r) {
		return nil
	}
	l.left--
	l.told++
	return l.lie
}

// reply is the server's answer, on its way.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// ServeHTTP implements http.Handler.
func (l *Liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // the client is gone
	}
	lie := l.pick(r)
	if lie != nil && lie.instead != nil {
		lie.instead(w)
		return
	}
	a, err := l.forward(r, body)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	if lie != nil {
		lie.change(a)
	}
	for k, v := range a.header {
		w.Header()[k] = v
	}
	if r.Method != http.MethodHead && a.header.Get("Content-Length") == "" {
		w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // the client may be gone
}

func (l *Liar) forward(r *http.Request, body []byte) (*reply, error) {
	url := "http://" + l.upstream + r.URL.RequestURI()
	out, err := http.NewRequestWithContext(r.Context(), r.Method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	out.Header, out.Host, out.ContentLength = r.Header.Clone(), r.Host, int64(len(body))
	resp, err := l.client.Do(out)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // only read
	a := &reply{status: resp.StatusCode, header: resp.Header}
	if a.body, err = io.ReadAll(resp.Body); err != nil {
		return nil, err
	}
	if r.Method != http.MethodHead { // its length is of a body that does not come
		a.header.Del("Content-Length")
	}
	return a, nil
}
