package objstore_test

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

const (
	pageHTML  = "<html><body>maintenance</body></html>"
	errorXML  = `<?xml version="1.0"?><Error><Code>InternalError</Code><Message>Please try again.</Message></Error>`
	emptyMD5  = `"d41d8cd98f00b204e9800998ecf8427e"`
	listStart = `<?xml version="1.0"?><ListBucketResult><Name>bucket</Name>`
	listItem  = `<Contents><Key>prefix/a</Key><LastModified>2026-01-01T00:00:00Z</LastModified>` +
		`<Size>1</Size></Contents>`
)

// answer writes a reply that looks like an object's.
func answer(w http.ResponseWriter, status int, contentType, etag, body string) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
	if etag != "" {
		h.Set("ETag", etag)
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// TestS3StrangeAnswers: what no object store would say is a passing fault, never success,
// absence or data.
func TestS3StrangeAnswers(t *testing.T) {
	all := []string{"create", "read", "size", "list", "delete", "lock", "extend", "rule"}
	answered := []string{"create", "read", "size", "list", "lock", "rule"} // with more than a status
	for _, tt := range []struct {
		name string
		of   []string
		f    func(w http.ResponseWriter)
	}{
		{"a page", all, func(w http.ResponseWriter) { answer(w, 200, "text/html", "", pageHTML) }},
		{"a page with a tag", all, func(w http.ResponseWriter) {
			answer(w, 200, "text/html; charset=utf-8", emptyMD5, pageHTML)
		}},
		{"a page of bytes", []string{"create", "list", "extend", "rule"}, func(w http.ResponseWriter) {
			answer(w, 200, "application/octet-stream", emptyMD5, pageHTML)
		}},
		{"an error document", all, func(w http.ResponseWriter) {
			answer(w, 200, "application/xml", emptyMD5, errorXML)
		}},
		{"nothing", answered, func(w http.ResponseWriter) { w.WriteHeader(200) }},
		{"no content", answered, func(w http.ResponseWriter) { w.WriteHeader(204) }},
		{"another document", []string{"list", "rule"}, func(w http.ResponseWriter) {
			answer(w, 200, "application/xml", "", `<ListAllMyBucketsResult></ListAllMyBucketsResult>`)
		}},
		{"half a list", []string{"list"}, func(w http.ResponseWriter) {
			answer(w, 200, "application/xml", "", listStart+listItem)
		}},
		{"a list that lacks what it counts", []string{"list"}, func(w http.ResponseWriter) {
			answer(w, 200, "application/xml", "", listStart+"<KeyCount>2</KeyCount>"+listItem+"</ListBucketResult>")
		}},
		{"more to come, and not how", []string{"list"}, func(w http.ResponseWriter) {
			answer(w, 200, "application/xml", "", listStart+"<IsTruncated>true</IsTruncated>"+listItem+
				"</ListBucketResult>")
		}},
		{"absent, says a page", []string{"create", "read", "size", "list", "delete"}, func(w http.ResponseWriter) {
			answer(w, 404, "text/html", "", pageHTML)
		}},
		{"absent, of what cannot be", []string{"create", "list"}, func(w http.ResponseWriter) {
			answer(w, 404, "application/xml", "", strings.ReplaceAll(errorXML, "InternalError", "NoSuchKey"))
		}},
		{"beyond its end, says a page", []string{"read", "size"}, func(w http.ResponseWriter) {
			answer(w, 416, "text/html", "", pageHTML)
		}},
		{"exists, of what is read", []string{"read", "size", "list", "delete"}, func(w http.ResponseWriter) {
			answer(w, 412, "application/xml", "", strings.ReplaceAll(errorXML, "InternalError", "PreconditionFailed"))
		}},
		{"a bad request, says a page", []string{"create", "read", "size", "list", "delete"},
			func(w http.ResponseWriter) {
				answer(w, 400, "text/html", "", pageHTML)
			}},
		{"go to another page", []string{"create", "read", "size", "list", "delete"}, func(w http.ResponseWriter) {
			w.Header().Set("Location", "http://portal.example/login")
			answer(w, 307, "text/html", "", pageHTML)
		}},
	} {
		for _, op := range tt.of {
			t.Run(tt.name+"/"+op, func(t *testing.T) {
				t.Parallel()
				s := openFake(t, func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					if op != "rule" && r.URL.Query().Has("versioning") {
						answer(w, 200, "application/xml", "", "<VersioningConfiguration></VersioningConfiguration>")
						return
					}
					tt.f(w)
				}, objstore.Options{})
				if err := call(t, s, op); !fail.Is(err, fail.Retry) {
					t.Errorf("%v, kind %v; want a passing fault", err, fail.KindOf(err))
				}
			})
		}
	}
}

// call makes one call of a kind.
func call(t *testing.T, s objstore.Store, op string) (err error) {
	switch op {
	case "create":
		err = s.Create(t.Context(), "a", []byte("body"))
	case "read":
		_, err = s.Read(t.Context(), "a", 0, 10, nil)
	case "size":
		_, err = s.Size(t.Context(), "a")
	case "list":
		err = s.List(t.Context(), "", "", func(objstore.Info) error { return nil })
	case "delete":
		err = s.Delete(t.Context(), "a")
	case "lock":
		_, err = s.Lock(t.Context(), "a")
	case "extend":
		err = s.Extend(t.Context(), "a", objstore.Lock{Mode: objstore.Governance, Until: time.Now().Add(time.Hour)})
	case "rule":
		_, err = s.LockRule(t.Context())
	}
	return err
}

// TestS3CreateIsProved: a PUT's 200 counts where it names the checksum that was sent, or
// the body's MD5. After any other, the object is looked at.
func TestS3CreateIsProved(t *testing.T) {
	body := "body"
	sum := md5.Sum([]byte(body))
	right := `"` + hex.EncodeToString(sum[:]) + `"`
	for _, tt := range []struct {
		name   string
		put    func(h http.Header, sent string)
		stored string // "" is nothing
		reads  int
		want   fail.Kind // 255 is success
	}{
		{"the checksum", func(h http.Header, sent string) { h.Set("x-amz-checksum-crc32c", sent) }, body, 0, 255},
		{"the MD5", func(h http.Header, _ string) { h.Set("ETag", right) }, body, 0, 255},
		{"another tag", func(h http.Header, _ string) { h.Set("ETag", `"0123"`) }, body, 1, 255},
		{"no tag", func(http.Header, string) {}, body, 1, 255},
		{"nothing stored", func(h http.Header, _ string) { h.Set("ETag", `"0123"`) }, "", 1, fail.Retry},
		{"another stored", func(h http.Header, _ string) { h.Set("ETag", `"0123"`) }, "bodz", 1, fail.Retry},
		{"longer", func(h http.Header, _ string) { h.Set("ETag", `"0123"`) }, "body and more", 1, fail.Retry},
		{"another checksum", func(h http.Header, _ string) {
			h.Set("x-amz-checksum-crc32c", "AAAAAA==")
		}, "bodz", 1, fail.Retry},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reads := 0
			s := openFake(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPut {
					tt.put(w.Header(), r.Header.Get("x-amz-checksum-crc32c"))
					return
				}
				if reads++; tt.stored == "" {
					answer(w, 404, "application/xml", "", strings.ReplaceAll(errorXML, "InternalError", "NoSuchKey"))
					return
				}
				w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", min(len(tt.stored), 5)-1, len(tt.stored)))
				answer(w, 206, "application/octet-stream", `"0123"`, tt.stored[:min(len(tt.stored), 5)])
			}, objstore.Options{})
			err := s.Create(t.Context(), "a", []byte(body))
			if tt.want == 255 && err != nil || tt.want != 255 && !fail.Is(err, tt.want) {
				t.Errorf("error %v, want kind %v", err, tt.want)
			}
			if reads != tt.reads {
				t.Errorf("%d reads, want %d", reads, tt.reads)
			}
		})
	}
}

// TestS3OneRequest: with a server as they are, a create is one request.
func TestS3OneRequest(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			srv := startServer(t, kind)
			upstream, err := url.Parse(srv.Endpoint)
			if err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			var seen []string
			front := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(upstream)
				r.Out.Host = r.In.Host
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, r.In.Method+" "+r.In.URL.String())
			}})
			defer front.Close()
			s := openS3(t, srv, front.URL, objstore.Options{})
			defer func() { _ = s.Close() }()
			for i, n := range []int{0, 1, 100_000} {
				if err := s.Create(t.Context(), fmt.Sprint(i), make([]byte, n)); err != nil {
					t.Fatal(err)
				}
			}
			if len(seen) != 3 {
				t.Errorf("requests of three creates: %q", seen)
			}
		})
	}
}

// TestS3ClaimedLength: an answer that claims more than memory has costs what it sends.
func TestS3ClaimedLength(t *testing.T) {
	const size = int64(1) << 55
	s := openFake(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", size-1, size))
		w.Header().Set("Content-Length", fmt.Sprint(size))
		answer(w, 206, "application/octet-stream", `"0123"`, "a few bytes")
	}, objstore.Options{})
	if _, err := s.Read(t.Context(), "a", 0, -1, nil); !fail.Is(err, fail.Retry) {
		t.Errorf("read: %v", err)
	}
}
