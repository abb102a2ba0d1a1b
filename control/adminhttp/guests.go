package adminhttp

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/listen"
	"github.com/pollux-dr/pollux/internal/pki"
)

// Limits of one listener.
const (
	// maxSilent connections shake hands, send a request's header, or idle after one.
	maxSilent = 256
	// maxRequests are carried out at a time, and maxPerPeer of them for one certificate.
	maxRequests = 128
	maxPerPeer  = 48

	maxHeaderBytes = 64 << 10
	maxBodyBytes   = 1 << 20
	headerTimeout  = 10 * time.Second
	bodyTimeout    = 10 * time.Second
	idleTimeout    = time.Minute
	// writeTimeout is for one part of an answer.
	writeTimeout = 30 * time.Second
)

// guests are the connections of one listener.
type guests struct {
	log      *slog.Logger
	silent   listen.Lobby
	requests *listen.Places

	mu    sync.Mutex
	leave map[net.Conn]func() // of those that are silent
}

func newGuests(log *slog.Logger) *guests {
	return &guests{log: log, silent: listen.NewLobby(maxSilent), requests: listen.NewPlaces(maxRequests, maxPerPeer),
		leave: map[net.Conn]func(){}}
}

// watch is told of every connection: it is silent until a request's header is read, and
// again after the answer.
func (g *guests) watch(c net.Conn, s http.ConnState) {
	var enter func()
	if s == http.StateNew || s == http.StateIdle {
		enter = g.silent.Enter(func() { listen.Cut(c) })
	}
	g.mu.Lock()
	leave := g.leave[c]
	if delete(g.leave, c); enter != nil {
		g.leave[c] = enter
	}
	g.mu.Unlock()
	if leave != nil {
		leave()
	}
}

type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// handler refuses requests beyond the limits, and limits how long a request's body and each
// part of its answer may take.
func (g *guests) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w = paced{w}
		name := ""                                         // who may open the socket, or look at metrics
		if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 { // metrics ask for no certificate
			peer, err := pki.PeerOfState(r.TLS)
			if err != nil {
				refuse(w, http.StatusForbidden, err)
				return
			}
			name = peer.String()
		}
		leave, ok := g.requests.Enter(name, func() { listen.Cut(r.Context().Value(connKey{}).(net.Conn)) })
		if !ok {
			g.log.Warn("too many requests at a time", "remote", r.RemoteAddr, "limit", maxRequests)
			full := fmt.Sprintf("%d requests are carried out already", maxRequests)
			refuse(w, http.StatusServiceUnavailable, fail.New(fail.Retry, "call", r.URL.Path, full))
			return
		}
		defer leave()
		body, err := readBody(w, r)
		if err != nil {
			refuse(w, http.StatusBadRequest, fail.Wrap(fail.Invalid, "read request", r.URL.Path, err))
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

// readBody reads all of a request's body, within bodyTimeout. The verb, which comes after it,
// may take long.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	conn := http.NewResponseController(w)
	_ = conn.SetReadDeadline(time.Now().Add(bodyTimeout)) // every connection has one
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	if err == nil { // else the server must not wait for the rest either
		_ = conn.SetReadDeadline(time.Time{})
	}
	return b, err
}

func refuse(w http.ResponseWriter, status int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Connection", "close")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(change.FaultOf(err)) // the client may be gone
}

// paced is an answer whose reader has to make progress.
type paced struct{ http.ResponseWriter }

func (p paced) Write(b []byte) (int, error) {
	p.goOn()
	return p.ResponseWriter.Write(b)
}

// WriteHeader has a time limit as well: a status that only says that the answer is to come is
// sent at once.
func (p paced) WriteHeader(status int) {
	p.goOn()
	p.ResponseWriter.WriteHeader(status)
}

func (p paced) goOn() {
	_ = http.NewResponseController(p.ResponseWriter).SetWriteDeadline(time.Now().Add(writeTimeout))
}

// Unwrap lets http.ResponseController find the connection.
func (p paced) Unwrap() http.ResponseWriter { return p.ResponseWriter }
