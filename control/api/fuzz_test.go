package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/pki"
)

// willing does nothing of what it is asked, and succeeds.
type willing struct{}

func (willing) HandOver(context.Context, HandOver) (h HandOverReport, err error)  { return }
func (willing) Commit(context.Context, Commit) (c CommitReport, err error)        { return }
func (willing) RollBack(context.Context, RollBack) (r RollBackReport, err error)  { return }
func (willing) Status(context.Context, struct{}) (s Status, err error)            { return }
func (willing) GroupPut(context.Context, GroupPut) (g Group, err error)           { return }
func (willing) GroupList(context.Context, List) (g []Group, err error)            { return }
func (willing) GroupWait(context.Context, GroupWait) (p GroupProgress, err error) { return }
func (willing) VolumeCreate(context.Context, VolumeCreate) (v Volume, err error)  { return }
func (willing) VolumeList(context.Context, List) (v []Volume, err error)          { return }
func (willing) VolumeRemove(context.Context, VolumeRemove) (v Volume, err error)  { return }
func (willing) VolumeAccept(context.Context, VolumeAccept) (v Volume, err error)  { return }
func (willing) VolumeChanged(context.Context, VolumeChanged) (VolumeChanges, error) {
	return VolumeChanges{}, nil
}
func (willing) BookmarkAdd(context.Context, BookmarkAdd) (b Bookmark, err error) { return }
func (willing) BookmarkList(context.Context, List) (b []Bookmark, err error)     { return }
func (willing) BookmarkRemove(context.Context, BookmarkRemove) (Bookmark, error) {
	return Bookmark{}, nil
}
func (willing) AuditList(context.Context, AuditQuery) (a []AuditEntry, err error) { return }

// FuzzHandler: whatever is sent to a verb, the answer is one JSON value with a status
// that the protocol has, and what changes state is audited or refused.
func FuzzHandler(f *testing.F) {
	verbs := []string{VerbStatus, VerbGroupPut, VerbVolumeCreate, VerbVolumeRemove, VerbBookmarkAdd, VerbAuditList,
		VerbJournalInit, "../" + VerbStatus}
	for i := range verbs {
		f.Add("POST", uint8(i), []byte(`{}`), false)
	}
	f.Add("POST", uint8(1), []byte(`{"name":"g","create":true,"by":"kim","retention":"every_write=1h"}`), false)
	f.Add("POST", uint8(1), []byte(`{"name":`), true)
	f.Add("GET", uint8(0), []byte(`null`), false)
	f.Add("POST", uint8(2), []byte(`{"size_bytes":-1,"dry_run":true}`), true)
	f.Fuzz(func(t *testing.T, method string, verb uint8, body []byte, reader bool) {
		audited := 0
		h := Handler(willing{}, func(_ context.Context, _ pki.Peer, _ string, req json.RawMessage, _ error) {
			if audited++; req != nil && !json.Valid(req) {
				t.Errorf("the audit gets %q", req)
			}
		})
		r, err := http.NewRequest(method, "http://pollux/v1/"+verbs[int(verb)%len(verbs)], bytes.NewReader(body))
		if err != nil {
			return
		}
		if reader {
			cert := &x509.Certificate{URIs: []*url.URL{{Scheme: "pollux", Opaque: string(pki.Reader) + "/watch"}}}
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		switch w.Code {
		case http.StatusOK:
			if !json.Valid(w.Body.Bytes()) {
				t.Errorf("the answer is %q", w.Body)
			}
		case http.StatusBadRequest, http.StatusForbidden, http.StatusUnprocessableEntity:
			var fault change.Fault
			if err := json.Unmarshal(w.Body.Bytes(), &fault); err != nil || fault.Text == "" {
				t.Errorf("status %d with %q", w.Code, w.Body)
			}
		case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusMovedPermanently,
			http.StatusTemporaryRedirect:
		default:
			t.Errorf("status %d", w.Code)
		}
	})
}
