package liar

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Lie is one kind. Either it is told instead of asking the server, or it changes the
// server's answer.
type Lie struct {
	Name string
	// Bytes: contents are changed on the way, which only checksums show.
	Bytes bool
	// Plausible: it is in a store's own words, and only its next answer can show it.
	Plausible bool
	// Stale: a list lacks its newest names, and says so nowhere.
	Stale bool

	about   func(*http.Request) bool
	instead func(http.ResponseWriter)
	change  func(*reply)
}

// Of is the kind of request that it is told about: put, get, list, delete, or any.
func (l *Lie) Of() string {
	of, _, _ := strings.Cut(l.Name, " ")
	return of
}

func isPut(r *http.Request) bool    { return r.Method == http.MethodPut }
func isDelete(r *http.Request) bool { return r.Method == http.MethodDelete }
func isAny(*http.Request) bool      { return true }
func isList(r *http.Request) bool {
	return r.Method == http.MethodGet && r.URL.Query().Has("list-type")
}

// isGet reports a GET of an object: below a bucket, and without a query of its own.
func isGet(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Count(strings.Trim(r.URL.Path, "/"), "/") >= 1 && r.URL.RawQuery == ""
}

// Lies are all kinds.
func Lies() []*Lie {
	var all []*Lie
	for _, k := range []struct {
		of    string
		about func(*http.Request) bool
	}{{"put", isPut}, {"get", isGet}, {"list", isList}, {"delete", isDelete}, {"any", isAny}} {
		for _, page := range pages {
			all = append(all, &Lie{Name: k.of + " " + page.name, about: k.about, instead: page.write})
		}
	}
	return append(all,
		&Lie{Name: "put repeated on the way", about: isPut, change: func(a *reply) {
			if a.status == http.StatusOK {
				a.document(http.StatusPreconditionFailed, "PreconditionFailed")
			}
		}},
		&Lie{Name: "put exists, and nothing is there", Plausible: true, about: isPut,
			instead: document(http.StatusPreconditionFailed, "PreconditionFailed")},
		&Lie{Name: "put no such key", about: isPut, instead: document(http.StatusNotFound, "NoSuchKey")},
		&Lie{Name: "put done, and an error said", about: isPut, change: func(a *reply) {
			a.document(http.StatusInternalServerError, "InternalError")
		}},
		&Lie{Name: "get no such key", Plausible: true, about: isGet,
			instead: document(http.StatusNotFound, "NoSuchKey")},
		&Lie{Name: "get beyond its end", Plausible: true, about: isGet,
			instead: document(http.StatusRequestedRangeNotSatisfiable, "InvalidRange")},
		&Lie{Name: "get a bit flipped", Bytes: true, about: isGet, change: func(a *reply) {
			if a.status < 300 && len(a.body) > 0 {
				a.body[len(a.body)/2] ^= 0x40
			}
		}},
		&Lie{Name: "get zeros", Bytes: true, about: isGet, change: func(a *reply) {
			if a.status < 300 {
				clear(a.body)
			}
		}},
		&Lie{Name: "get another range", about: isGet, change: func(a *reply) {
			var first, last, size int64
			if n, _ := fmt.Sscanf(a.header.Get("Content-Range"), "bytes %d-%d/%d", &first, &last, &size); n == 3 {
				a.header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first+1, last+1, size))
			}
		}},
		&Lie{Name: "get half", about: isGet, change: func(a *reply) {
			if a.status < 300 {
				a.header.Set("Content-Length", fmt.Sprint(len(a.body)))
				a.body = a.body[:len(a.body)/2]
			}
		}},
		&Lie{Name: "get never ends", about: isGet, instead: stall},
		&Lie{Name: "list half", about: isList, change: func(a *reply) { a.body = a.body[:len(a.body)/2] }},
		&Lie{Name: "list lacks what it counts", about: isList, change: func(a *reply) {
			a.body = withoutNewest(a.body)
		}},
		&Lie{Name: "list is old", Stale: true, about: isList, change: func(a *reply) {
			b := withoutNewest(a.body)
			n := bytes.Count(b, []byte("<Contents>"))
			before, rest, _ := bytes.Cut(b, []byte("<KeyCount>"))
			_, after, _ := bytes.Cut(rest, []byte("</KeyCount>"))
			a.body = fmt.Appendf(nil, "%s<KeyCount>%d</KeyCount>%s", before, n, after)
		}},
	)
}

// pages are answers that do not look at the request.
var pages = []struct {
	name  string
	write func(http.ResponseWriter)
}{
	{"200 page", page("text/html", "<html><body>maintenance</body></html>")},
	{"200 error", page("application/xml", errorDocument("InternalError"))},
	{"200 nothing", func(w http.ResponseWriter) { w.WriteHeader(http.StatusOK) }},
	{"404 page", func(w http.ResponseWriter) { http.Error(w, "no such page", http.StatusNotFound) }},
	{"307 login", func(w http.ResponseWriter) {
		w.Header().Set("Location", "http://portal.invalid/login")
		w.WriteHeader(http.StatusTemporaryRedirect)
	}},
	{"503", document(http.StatusServiceUnavailable, "SlowDown")},
	{"reset", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }},
}

func errorDocument(code string) string {
	return `<?xml version="1.0"?><Error><Code>` + code + `</Code><Message>a lie</Message></Error>`
}

// page answers 200 with headers as of an object.
func page(contentType, text string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		w.Header().Set("ETag", `"d41d8cd98f00b204e9800998ecf8427e"`)
		_, _ = io.WriteString(w, text)
	}
}

func document(status int, code string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, errorDocument(code))
	}
}

func (a *reply) document(status int, code string) {
	a.status, a.body = status, []byte(errorDocument(code))
	a.header = http.Header{"Content-Type": {"application/xml"}}
}

// stall promises a body and sends a byte of it, until the client has had enough.
func stall(w http.ResponseWriter) {
	w.Header().Set("Content-Length", "1000")
	w.Header().Set("ETag", `"0123"`)
	w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
	for {
		if _, err := w.Write([]byte{0}); err != nil {
			panic(http.ErrAbortHandler)
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			panic(http.ErrAbortHandler)
		}
		time.Sleep(20 * time.Millisecond) // the lie itself, not a wait for something
	}
}

// withoutNewest drops the last names of a list.
func withoutNewest(list []byte) []byte {
	for range 3 {
		from := bytes.LastIndex(list, []byte("<Contents>"))
		to := bytes.LastIndex(list, []byte("</Contents>"))
		if from < 0 || to < from {
			break
		}
		list = append(list[:from:from], list[to+len("</Contents>"):]...)
	}
	return list
}
