package control

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/pki"
)

// Verbs are the paths under /v1/.
const (
	VerbStatus         = "status"
	VerbGroupPut       = "group-put"
	VerbGroupList      = "group-list"
	VerbGroupWait      = "group-wait"
	VerbVolumeCreate   = "volume-create"
	VerbVolumeList     = "volume-list"
	VerbVolumeRemove   = "volume-remove"
	VerbVolumeAccept   = "volume-accept"
	VerbVolumeChanged  = "volume-changed"
	VerbBookmarkAdd    = "bookmark-add"
	VerbBookmarkList   = "bookmark-list"
	VerbBookmarkRemove = "bookmark-remove"

	VerbAuditList       = "audit-list"
	VerbJournalList     = "journal-list"
	VerbJournalInit     = "journal-init"
	VerbJournalJoin     = "journal-join"
	VerbJournalRemove   = "journal-remove"
	VerbJournalTransfer = "journal-transfer"
)

const maxBodyBytes = 1 << 20

// Handler serves s.
func Handler(s Service, audit Audit) *Mux {
	m := newMux(audit)
	look(m, VerbStatus, s.Status)
	alter(m, VerbGroupPut, s.GroupPut)
	look(m, VerbGroupList, s.GroupList)
	look(m, VerbGroupWait, s.GroupWait)
	alter(m, VerbVolumeCreate, s.VolumeCreate)
	look(m, VerbVolumeList, s.VolumeList)
	alter(m, VerbVolumeRemove, s.VolumeRemove)
	alter(m, VerbVolumeAccept, s.VolumeAccept)
	look(m, VerbVolumeChanged, s.VolumeChanged)
	alter(m, VerbBookmarkAdd, s.BookmarkAdd)
	look(m, VerbBookmarkList, s.BookmarkList)
	alter(m, VerbBookmarkRemove, s.BookmarkRemove)
	look(m, VerbAuditList, s.AuditList)
	return m
}

// JournalHandler serves a member of a journal.
func JournalHandler(s JournalService, audit Audit) *Mux {
	m := newMux(audit)
	look(m, VerbStatus, s.Status)
	look(m, VerbGroupList, s.GroupList)
	look(m, VerbAuditList, s.AuditList)
	AddMembers(m, s)
	return m
}

// AddMembers adds the verbs about a journal's members.
func AddMembers(m *Mux, s Members) {
	look(m, VerbJournalList, s.JournalList)
	alter(m, VerbJournalInit, s.JournalInit)
	alter(m, VerbJournalJoin, s.JournalJoin)
	alter(m, VerbJournalRemove, s.JournalRemove)
	alter(m, VerbJournalTransfer, s.JournalTransfer)
}

// Mux serves verbs to those whose role lets them.
type Mux struct {
	http.ServeMux
	audit Audit
}

// Audit is told of every verb that was to change state: by whom, with which
// request, and how it ended. One that was only tried out is not told of.
type Audit func(ctx context.Context, who pki.Peer, verb string, req json.RawMessage, err error)

func newMux(audit Audit) *Mux {
	if audit == nil {
		audit = func(context.Context, pki.Peer, string, json.RawMessage, error) {}
	}
	return &Mux{audit: audit}
}

// look serves a verb that changes nothing.
func look[Req, Resp any](m *Mux, verb string, do func(context.Context, Req) (Resp, error)) {
	handle(m, verb, false, func(ctx context.Context, _ pki.Peer, req Req) (Resp, error) { return do(ctx, req) })
}

// alter serves a verb that changes state.
func alter[Req, Resp any](m *Mux, verb string, do func(context.Context, Req) (Resp, error)) {
	handle(m, verb, true, func(ctx context.Context, who pki.Peer, req Req) (Resp, error) {
		resp, err := do(ctx, req)
		b, _ := json.Marshal(req) // it came as JSON
		var dry struct {
			DryRun bool `json:"dry_run"`
		}
		if _ = json.Unmarshal(b, &dry); !dry.DryRun {
			m.audit(context.WithoutCancel(ctx), who, verb, b, err)
		}
		return resp, err
	})
}

func handle[Req, Resp any](m *Mux, verb string, alters bool, do func(context.Context, pki.Peer, Req) (Resp, error)) {
	roles := []pki.Role{pki.Operator}
	if !alters {
		roles = append(roles, pki.Reader)
	}
	m.HandleFunc("POST /v1/"+verb, func(w http.ResponseWriter, r *http.Request) {
		who, err := pki.PeerOfState(r.TLS)
		if err == nil && !who.Is(roles...) {
			err = fail.New(fail.Denied, "call", verb, fmt.Sprintf("%v's role does not let it do that; it takes one of %v", who, roles))
			if alters {
				m.audit(context.WithoutCancel(r.Context()), who, verb, json.RawMessage("null"), err)
			}
		}
		if err != nil {
			writeJSON(w, http.StatusForbidden, change.FaultOf(err))
			return
		}
		var req Req
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBodyBytes))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&req); err != nil {
			writeJSON(w, http.StatusBadRequest, change.FaultOf(fail.Wrap(fail.Invalid, "decode request", verb, err)))
			return
		}
		resp, err := do(r.Context(), who, req)
		if err != nil {
			writeJSON(w, http.StatusUnprocessableEntity, change.FaultOf(err))
			return
		}
		writeJSON(w, http.StatusOK, resp)
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}

// Client calls a daemon.
type Client struct {
	socket string // or host:port
	scheme string
	http   http.Client
}

// DialTLS returns a client of the daemon at host:port, which knows the caller by a
// certificate.
func DialTLS(address string, files pki.Files) *Client {
	c := &Client{socket: address, scheme: "https"}
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: files.Client(pki.Journal, pki.Agent)}
	c.http.Transport = &http.Transport{DisableKeepAlives: true,
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }}
	return c
}

// Dial returns a client of the daemon behind a unix socket. It connects with
// each call.
func Dial(socket string) *Client {
	c := &Client{socket: socket, scheme: "http"}
	c.http.Transport = &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			d := net.Dialer{Timeout: 5 * time.Second}
			return d.DialContext(ctx, "unix", socket)
		}}
	return c
}

// Call sends req to verb and decodes the answer into resp. A daemon that is not
// there is fail.Retry.
func (c *Client) Call(ctx context.Context, verb string, req, resp any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return fail.Wrap(fail.Internal, "encode", verb, err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.scheme+"://pollux/v1/"+verb, bytes.NewReader(body))
	if err != nil {
		return fail.Wrap(fail.Internal, "call", verb, err)
	}
	r.Header.Set("Content-Type", "application/json")
	got, err := c.http.Do(r)
	if err != nil {
		return c.unreachable(err)
	}
	defer got.Body.Close()
	b, err := io.ReadAll(got.Body)
	if err != nil {
		return c.unreachable(err)
	}
	if got.StatusCode == http.StatusNotFound {
		return fail.New(fail.Refused, "call", verb, "the daemon at "+c.socket+" does not serve that verb").
			WithHint("`pollux journal …` goes to a member of a journal, everything else to an agent: --socket or --address")
	}
	if got.StatusCode != http.StatusOK {
		var f change.Fault
		if json.Unmarshal(b, &f) != nil || f.Text == "" {
			return fail.New(fail.Internal, "call", verb, fmt.Sprintf("the daemon answered %s", got.Status))
		}
		return f.Err("", "")
	}
	return fail.Wrap(fail.Internal, "decode answer of", verb, json.Unmarshal(b, resp))
}

func (c *Client) unreachable(err error) error {
	e := &fail.Error{Kind: fail.Retry, Op: "reach daemon at", Object: c.socket, Err: err}
	switch {
	case errors.Is(err, os.ErrPermission):
		e.Kind = fail.Denied
		return e.WithHint("run as root or as the agent's user")
	case c.scheme == "https" && (errors.As(err, new(*tls.CertificateVerificationError)) || strings.Contains(err.Error(), "tls: ")):
		e.Kind = fail.Denied
		return e.WithHint("are both certificates of the same authority, and is the address that of `control: {listen: …}`?")
	case c.scheme == "https":
		return e.WithHint("is the address that of the daemon's `control: {listen: …}`?")
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return e.WithHint("is `pollux agent` (or `pollux journal`) running? Name its control socket with --socket")
	}
	return e
}
