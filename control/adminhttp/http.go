package adminhttp

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"time"

	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/listen"
)

// HTTP are a daemon's servers. Spawn runs a part of it whose error ends the daemon.
type HTTP struct {
	Log     *slog.Logger
	Spawn   func(part func() error)
	servers []*http.Server
}

// WarnExposed says which files of secrets any user of this host can read.
func WarnExposed(log *slog.Logger, secrets []string) {
	for _, path := range secrets {
		if err := config.Exposed(path); err != nil {
			log.Warn("a secret is not kept", "err", err, "hint", fail.HintOf(err))
		}
	}
}

// ListenUnix listens on a socket for its owner only. What is at path is ours: the
// state directory is locked.
func ListenUnix(path string) (net.Listener, error) {
	_ = os.Remove(path)
	l, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		return nil, fail.Wrap(fail.Denied, "listen on", path, err)
	}
	return l, nil
}

// Serve takes requests from l until Close. Each listener has its own limits.
func (h *HTTP) Serve(l net.Listener, handler http.Handler) {
	log := listen.Sparse(h.Log)
	g := newGuests(log)
	s := &http.Server{Handler: g.handler(handler), ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeaderBytes, ErrorLog: listen.Lines(log, "a request was not served"), ConnState: g.watch,
		ConnContext: withConn}
	h.servers = append(h.servers, s)
	h.Spawn(func() error {
		if err := s.Serve(listen.Patient(l, log)); !errors.Is(err, http.ErrServerClosed) {
			return fail.Wrap(fail.Internal, "serve", l.Addr().String(), err)
		}
		return nil
	})
}

// ServeOwner serves a host's control socket: verbs, metrics and profiles.
func (h *HTTP) ServeOwner(socket string, verbs, prom http.Handler) error {
	ctl := http.NewServeMux()
	ctl.Handle("/v1/", verbs)
	ctl.Handle("/metrics", prom)
	ctl.HandleFunc("/debug/pprof/", pprof.Index) // the socket is its owner's only
	ctl.HandleFunc("/debug/pprof/profile", pprof.Profile)
	l, err := ListenUnix(socket)
	if err != nil {
		return err
	}
	h.Serve(l, ctl)
	return nil
}

// ServeBeyond serves what the configuration opens beside the control socket: verbs
// for operators on other hosts, and metrics.
func (h *HTTP) ServeBeyond(control config.Control, id config.Identity, verbs http.Handler, metrics config.Metrics,
	prom http.Handler) error {
	if control.Listen != "" {
		l, err := id.Files().Listen(control.Listen)
		if err != nil {
			return err
		}
		h.Serve(l, verbs)
	}
	if metrics.Listen != "" {
		l, err := ListenTCP(metrics.Listen, metrics.TLS)
		if err != nil {
			return err
		}
		only := http.NewServeMux()
		only.Handle("GET /metrics", prom)
		h.Serve(l, only)
	}
	return nil
}

// Leave gives up the listeners at once, so that another daemon can have their addresses, and lets
// the verbs that are being carried out end.
func (h *HTTP) Leave() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // it waits for nobody
	for _, s := range h.servers {
		_ = s.Shutdown(ctx)
	}
}

// Drain gives up the listeners, and returns when the verbs that are being carried out have been
// answered, or the time is over.
func (h *HTTP) Drain(limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for _, s := range h.servers {
		_ = s.Shutdown(ctx)
	}
}

// Close ends the servers, and with them the verbs' contexts.
func (h *HTTP) Close() {
	for _, s := range h.servers {
		_ = s.Close()
	}
}
