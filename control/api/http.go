package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
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
	VerbHandOver       = "hand-over"
	VerbCommit         = "hand-over-commit"
	VerbRollBack       = "hand-over-roll-back"
	VerbBookmarkAdd    = "bookmark-add"
	VerbBookmarkList   = "bookmark-list"
	VerbBookmarkRemove = "bookmark-remove"
	VerbFailover       = "failover"

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
	query(m, VerbStatus, s.Status)
	mutate(m, VerbGroupPut, s.GroupPut)
	query(m, VerbGroupList, s.GroupList)
	query(m, VerbGroupWait, s.GroupWait)
	mutate(m, VerbVolumeCreate, s.VolumeCreate)
	query(m, VerbVolumeList, s.VolumeList)
	mutate(m, VerbVolumeRemove, s.VolumeRemove)
	mutate(m, VerbVolumeAccept, s.VolumeAccept)
	query(m, VerbVolumeChanged, s.VolumeChanged)
	mutate(m, VerbBookmarkAdd, s.BookmarkAdd)
	query(m, VerbBookmarkList, s.BookmarkList)
	mutate(m, VerbBookmarkRemove, s.BookmarkRemove)
	query(m, VerbAuditList, s.AuditList)
	mutate(m, VerbHandOver, s.HandOver)
	mutate(m, VerbCommit, s.Commit)
	mutate(m, VerbRollBack, s.RollBack)
	return m
}

// JournalHandler serves a member of a journal.
func JournalHandler(s JournalService, audit Audit) *Mux {
	m := newMux(audit)
	query(m, VerbStatus, s.Status)
	query(m, VerbGroupList, s.GroupList)
	query(m, VerbAuditList, s.AuditList)
	AddMembers(m, s)
	return m
}

// AddMembers adds the verbs about a journal's members.
func AddMembers(m *Mux, s Members) {
	query(m, VerbJournalList, s.JournalList)
	mutate(m, VerbJournalInit, s.JournalInit)
	mutate(m, VerbJournalJoin, s.JournalJoin)
	mutate(m, VerbJournalRemove, s.JournalRemove)
	mutate(m, VerbJournalTransfer, s.JournalTransfer)
}

// Mux serves verbs to those whose role lets them.
type Mux struct {
	http.ServeMux
	audit Audit
}

// Audit is told of every verb that was to change state: by whom, with which request, nil
// where the caller's role refused it, and how it ended. It is not told of dry runs.
type Audit func(ctx context.Context, who pki.Peer, verb string, req json.RawMessage, err error)

func newMux(audit Audit) *Mux {
	if audit == nil {
		audit = func(context.Context, pki.Peer, string, json.RawMessage, error) {}
	}
	return &Mux{audit: audit}
}

// query serves a verb that changes nothing.
func query[Req, Resp any](m *Mux, verb string, do func(context.Context, Req) (Resp, error)) {
	handle(m, verb, false, func(ctx context.Context, _ pki.Peer, req Req) (Resp, error) { return do(ctx, req) })
}

// mutate serves a verb that changes state.
func mutate[Req, Resp any](m *Mux, verb string, do func(context.Context, Req) (Resp, error)) {
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
			err = fail.New(fail.Denied, "call", verb,
				fmt.Sprintf("%v's role does not let it do that; it takes one of %v", who, roles))
			if alters {
				m.audit(context.WithoutCancel(r.Context()), who, verb, nil, err)
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
		lines := make(chan string)
		resting := beat(w, r, lines)
		resp, err := do(context.WithValue(r.Context(), linesKey{}, lines), who, req)
		resting()
		if err != nil {
			writeJSON(w, http.StatusUnprocessableEntity, change.FaultOf(err))
			return
		}
		writeJSON(w, http.StatusOK, resp)
	})
}

// progressHeader of an answer that is not the last has a line of how far the verb is, quoted as in Go.
const progressHeader = "Pollux-Progress"

type linesKey struct{}

// Progress tells whoever called the verb of this context a line of how far it is. It does nothing
// where nobody listens.
func Progress(ctx context.Context, line string) {
	lines, _ := ctx.Value(linesKey{}).(chan string)
	select {
	case lines <- line: // a nil channel takes none
	case <-time.After(beatEvery): // the caller is gone
	}
}

// beat tells the client now and then that its verb is being carried out, and how far it is, until
// resting is called. One that hears nothing takes the daemon for dead.
func beat(w http.ResponseWriter, r *http.Request, lines <-chan string) (resting func()) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	say := func(line string) {
		if !r.ProtoAtLeast(1, 1) {
			return
		}
		if line != "" {
			w.Header().Set(progressHeader, strconv.QuoteToASCII(line))
			defer w.Header().Del(progressHeader)
		}
		w.WriteHeader(http.StatusProcessing)
	}
	go func() {
		defer close(stopped)
		tick := time.NewTicker(beatEvery)
		defer tick.Stop()
		for {
			line := ""
			select {
			case <-tick.C:
			case line = <-lines:
			case <-stop:
				return
			}
			if r.Context().Err() == nil {
				say(line)
			}
		}
	}()
	return func() { close(stop); <-stopped }
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}
