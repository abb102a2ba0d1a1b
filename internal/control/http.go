package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// Verbs are the paths under /v1/.
const (
	VerbStatus        = "status"
	VerbGroupPut      = "group-put"
	VerbGroupList     = "group-list"
	VerbGroupWait     = "group-wait"
	VerbVolumeCreate  = "volume-create"
	VerbVolumeList    = "volume-list"
	VerbVolumeRemove  = "volume-remove"
	VerbVolumeAccept  = "volume-accept"
	VerbVolumeChanged = "volume-changed"
	VerbBookmarkAdd   = "bookmark-add"
	VerbBookmarkList  = "bookmark-list"

	VerbJournalList     = "journal-list"
	VerbJournalInit     = "journal-init"
	VerbJournalJoin     = "journal-join"
	VerbJournalRemove   = "journal-remove"
	VerbJournalTransfer = "journal-transfer"
)

const maxBodyBytes = 1 << 20

// Handler serves s.
func Handler(s Service) *http.ServeMux {
	mux := http.NewServeMux()
	handle(mux, VerbStatus, s.Status)
	handle(mux, VerbGroupPut, s.GroupPut)
	handle(mux, VerbGroupList, s.GroupList)
	handle(mux, VerbGroupWait, s.GroupWait)
	handle(mux, VerbVolumeCreate, s.VolumeCreate)
	handle(mux, VerbVolumeList, s.VolumeList)
	handle(mux, VerbVolumeRemove, s.VolumeRemove)
	handle(mux, VerbVolumeAccept, s.VolumeAccept)
	handle(mux, VerbVolumeChanged, s.VolumeChanged)
	handle(mux, VerbBookmarkAdd, s.BookmarkAdd)
	handle(mux, VerbBookmarkList, s.BookmarkList)
	return mux
}

// JournalHandler serves a member of a journal.
func JournalHandler(s JournalService) http.Handler {
	mux := http.NewServeMux()
	handle(mux, VerbStatus, s.Status)
	handle(mux, VerbGroupList, s.GroupList)
	AddJournal(mux, s)
	return mux
}

// AddJournal adds the verbs about a journal's members.
func AddJournal(mux *http.ServeMux, s Members) {
	handle(mux, VerbJournalList, s.JournalList)
	handle(mux, VerbJournalInit, s.JournalInit)
	handle(mux, VerbJournalJoin, s.JournalJoin)
	handle(mux, VerbJournalRemove, s.JournalRemove)
	handle(mux, VerbJournalTransfer, s.JournalTransfer)
}

func handle[Req, Resp any](mux *http.ServeMux, verb string, do func(context.Context, Req) (Resp, error)) {
	mux.HandleFunc("POST /v1/"+verb, func(w http.ResponseWriter, r *http.Request) {
		var req Req
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBodyBytes))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&req); err != nil {
			writeJSON(w, http.StatusBadRequest, change.FaultOf(fail.Wrap(fail.Invalid, "decode request", verb, err)))
			return
		}
		resp, err := do(r.Context(), req)
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
	socket string
	http   http.Client
}

// Dial returns a client of the daemon behind a unix socket. It connects with
// each call.
func Dial(socket string) *Client {
	c := &Client{socket: socket}
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
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://pollux/v1/"+verb, bytes.NewReader(body))
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
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return e.WithHint("is `pollux agent` (or `pollux journal`) running? Name its control socket with --socket")
	}
	return e
}
