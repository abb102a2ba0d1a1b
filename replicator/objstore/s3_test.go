package objstore_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/s3test"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/objstore/objstoretest"
)

// credentialsFile writes an AWS credentials file that comes new each time.
func credentialsFile(t *testing.T, path, id, secret string) string {
	t.Helper()
	if path == "" {
		path = filepath.Join(t.TempDir(), "credentials")
	}
	text := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", id, secret)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// openFake opens an S3 store whose server is h.
func openFake(t *testing.T, h http.HandlerFunc, opts objstore.Options) objstore.Store {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	if opts.CredentialsFile == "" {
		opts.CredentialsFile = credentialsFile(t, "", "id", "secret")
	}
	opts.Endpoint = srv.URL
	s := open(t, "s3://bucket/prefix", opts)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestS3Errors(t *testing.T) {
	for _, tt := range []struct {
		status      int
		code        string // "" is an answer without an S3 error in it
		create, get fail.Kind
		hint        string
	}{
		{412, "PreconditionFailed", fail.Exists, fail.Retry, ""},
		{412, "", fail.Exists, fail.Retry, ""},
		{409, "ConditionalRequestConflict", fail.Retry, fail.Retry, ""},
		{409, "OperationAborted", fail.Retry, fail.Retry, ""},
		{409, "ObjectParentIsFile", fail.Invalid, fail.Invalid, ""},
		{404, "NoSuchKey", fail.Retry, fail.NotFound, ""},
		{404, "NoSuchBucket", fail.Invalid, fail.Invalid, "bucket"},
		{404, "", fail.Retry, fail.Retry, "endpoint"},
		{403, "AccessDenied", fail.Denied, fail.Denied, "ListBucket"},
		{403, "SignatureDoesNotMatch", fail.Denied, fail.Denied, "AWS_SECRET_ACCESS_KEY"},
		{403, "RequestTimeTooSkewed", fail.Denied, fail.Denied, "clock"},
		{403, "", fail.Denied, fail.Denied, ""},
		{401, "", fail.Denied, fail.Denied, ""},
		{400, "ExpiredToken", fail.Denied, fail.Denied, "credentials"},
		{400, "AuthorizationHeaderMalformed", fail.Invalid, fail.Invalid, "region"},
		{400, "RequestTimeout", fail.Retry, fail.Retry, ""},
		{400, "BadDigest", fail.Retry, fail.Retry, ""},
		{400, "InvalidArgument", fail.Invalid, fail.Invalid, ""},
		{301, "PermanentRedirect", fail.Invalid, fail.Invalid, "region"},
		{501, "NotImplemented", fail.Unsupported, fail.Unsupported, "conditional"},
		{507, "XMinioStorageFull", fail.Full, fail.Full, "room"},
		{429, "TooManyRequests", fail.Retry, fail.Retry, ""},
		{408, "", fail.Retry, fail.Retry, ""},
		{500, "InternalError", fail.Retry, fail.Retry, ""},
		{502, "", fail.Retry, fail.Retry, ""},
		{503, "SlowDown", fail.Retry, fail.Retry, ""},
	} {
		t.Run(fmt.Sprintf("%d%s", tt.status, tt.code), func(t *testing.T) {
			t.Parallel()
			s := openFake(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tt.status)
				if tt.code != "" {
					_, _ = fmt.Fprintf(w, "<?xml version=\"1.0\"?>\n"+
						"<Error><Code>%s</Code><Message>m</Message><RequestId>r17</RequestId></Error>", tt.code)
				}
			}, objstore.Options{})
			check := func(what string, err error, kind fail.Kind) {
				t.Helper()
				if !fail.Is(err, kind) {
					t.Errorf("%s: %v, kind %v, want %v", what, err, fail.KindOf(err), kind)
				} else if !strings.Contains(fail.HintOf(err), tt.hint) {
					t.Errorf("%s: hint %q lacks %q", what, fail.HintOf(err), tt.hint)
				} else if tt.code != "" && !strings.Contains(err.Error(), "r17") {
					t.Errorf("%s: no request id in %q", what, err)
				}
			}
			check("create", s.Create(t.Context(), "x", []byte("body")), tt.create)
			_, err := s.Read(t.Context(), "x", 0, -1, nil)
			check("read", err, tt.get)
			_, err = s.Size(t.Context(), "x")
			check("size", err, tt.get)
		})
	}
}

// TestS3NameOfBucket: a bucket that can have no such name is refused before anything is asked.
func TestS3NameOfBucket(t *testing.T) {
	for _, bucket := range []string{"Ab", "-ab", "a..b", "10.0.0.1", strings.Repeat("a", 64)} {
		_, err := objstore.Open(t.Context(), "s3://"+bucket+"/prefix", objstore.Options{Endpoint: "http://127.0.0.1:1"})
		if !fail.Is(err, fail.Invalid) || !strings.Contains(strings.ToLower(err.Error()), "bucket") ||
			!strings.Contains(fail.HintOf(err), "url") {
			t.Errorf("%s: %v (hint %q)", bucket, err, fail.HintOf(err))
		}
	}
}

// TestS3OpenNamesWhat: an endpoint or credentials that cannot be are told with the store.
func TestS3OpenNamesWhat(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "")
	for endpoint, says := range map[string]string{"127.0.0.1:9": `"127.0.0.1:9"`,
		"http://127.0.0.1:9": "no credentials"} {
		_, err := objstore.Open(t.Context(), "s3://bucket/prefix", objstore.Options{Endpoint: endpoint})
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "s3://bucket/prefix") {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
}

func TestS3OneAttempt(t *testing.T) {
	var requests atomic.Int64
	s := openFake(t, func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
	}, objstore.Options{})
	if err := s.Create(t.Context(), "x", nil); !fail.Is(err, fail.Retry) || requests.Load() != 1 {
		t.Errorf("create: %v after %d requests, want 1", err, requests.Load())
	}
}

func TestS3Timeout(t *testing.T) {
	stop := make(chan struct{})
	s := openFake(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-stop:
		case <-r.Context().Done():
		}
	}, objstore.Options{Timeout: 30 * time.Millisecond})
	defer close(stop)
	err := s.Create(t.Context(), "x", []byte("body"))
	if !fail.Is(err, fail.Retry) || !strings.Contains(err.Error(), "no progress within 30ms") {
		t.Errorf("create: %v", err)
	}
	if err := s.List(t.Context(), "", "", func(objstore.Info) error { return nil }); !fail.Is(err, fail.Retry) {
		t.Errorf("list: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := s.Read(ctx, "x", 0, -1, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("read: %v", err)
	}
}

// TestS3SlowLink: what moves is not cut off, however long it takes; what does not, is.
func TestS3SlowLink(t *testing.T) {
	const size, piece, pieces = 1 << 20, 32 << 10, 32
	body := objstoretest.Bytes(1, size)
	pause := func() { time.Sleep(220 * time.Millisecond) } // the link's pace
	s := openSlow(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			for range pieces {
				if _, err := io.CopyN(io.Discard, r.Body, piece); err != nil {
					return
				}
				pause()
			}
			w.Header().Set("X-Amz-Checksum-Crc32c", r.Header.Get("X-Amz-Checksum-Crc32c"))
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(size))
		w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", size-1, size))
		answer(w, 206, "application/octet-stream", `"0123"`, "")
		for i := range pieces {
			_, _ = w.Write(body[i*piece:][:piece])
			_ = http.NewResponseController(w).Flush()
			pause()
		}
	}, objstore.Options{Timeout: 2 * time.Second})
	t.Run("create", func(t *testing.T) {
		t.Parallel()
		if err := s.Create(t.Context(), "x", body); err != nil {
			t.Errorf("create: %v", err)
		}
	})
	t.Run("read", func(t *testing.T) {
		t.Parallel()
		if b, err := s.Read(t.Context(), "x", 0, size, nil); err != nil || !bytes.Equal(b, body) {
			t.Errorf("read: %d bytes, %v", len(b), err)
		}
	})
}

// openSlow is openFake with a server that takes in little ahead of its handler.
func openSlow(t *testing.T, h http.HandlerFunc, opts objstore.Options) objstore.Store {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	_ = srv.Listener.Close()
	small := func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 16<<10) })
	}
	var err error
	if srv.Listener, err = (&net.ListenConfig{Control: small}).Listen(t.Context(), "tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(srv.Close)
	opts.CredentialsFile, opts.Endpoint = credentialsFile(t, "", "id", "secret"), srv.URL
	s := open(t, "s3://bucket/prefix", opts)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// TestS3Replies are answers of which a careless client would make other bytes.
func TestS3Replies(t *testing.T) {
	for _, tt := range []struct {
		name   string
		header http.Header
		status int
		body   string
		want   string
		kind   fail.Kind
	}{
		{"right", http.Header{"Content-Range": {"bytes 2-4/10"}}, 206, "cde", "cde", 0},
		{"whole instead", nil, 200, "abcdefghij", "cde", 0},
		{"whole, shorter", nil, 200, "abc", "c", 0},
		{"other range", http.Header{"Content-Range": {"bytes 3-5/10"}}, 206, "def", "", fail.Retry},
		{"less than there is", http.Header{"Content-Range": {"bytes 2-3/10"}}, 206, "cd", "", fail.Retry},
		{"range and length differ", http.Header{"Content-Range": {"bytes 2-4/10"}}, 206, "cdef", "", fail.Retry},
		{"in chunks", http.Header{"Content-Range": {"bytes 2-4/10"}, "Transfer-Encoding": {"chunked"}}, 206, "cde",
			"cde", 0},
		{"cut in chunks", http.Header{"Content-Range": {"bytes 2-4/10"}, "Transfer-Encoding": {"chunked"}}, 206, "cd",
			"", fail.Retry},
		{"cut", http.Header{"Content-Range": {"bytes 2-4/10"}, "Content-Length": {"3"}}, 206, "c", "", fail.Retry},
		{"no range", http.Header{"Content-Range": {"lines 2-4/10"}}, 206, "cde", "", fail.Retry},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := openFake(t, func(w http.ResponseWriter, r *http.Request) {
				if got := r.Header.Get("Range"); got != "bytes=2-4" {
					t.Errorf("range %q", got)
				}
				for k, v := range tt.header {
					w.Header()[k] = v
				}
				answer(w, tt.status, "application/octet-stream", `"0123"`, tt.body)
			}, objstore.Options{})
			b, err := s.Read(t.Context(), "x", 2, 3, nil)
			if tt.kind == 0 && (err != nil || string(b) != tt.want) || tt.kind != 0 && !fail.Is(err, tt.kind) {
				t.Errorf("read: %q, %v", b, err)
			}
		})
	}
}

func TestS3Unreachable(t *testing.T) {
	srv := httptest.NewServer(nil)
	plain := srv.URL
	srv.Close()
	creds := credentialsFile(t, "", "id", "secret")
	s := open(t, "s3://bucket", objstore.Options{Endpoint: plain, CredentialsFile: creds})
	if err := s.Create(t.Context(), "x", nil); !fail.Is(err, fail.Retry) {
		t.Errorf("nobody listens: %v", err)
	}
}

func TestS3Credentials(t *testing.T) {
	for _, v := range []string{"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY",
		"AWS_SHARED_CREDENTIALS_FILE", "AWS_PROFILE"} {
		t.Setenv(v, "")
	}
	var key atomic.Value
	h := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Amz-Checksum-Crc32c", r.Header.Get("X-Amz-Checksum-Crc32c"))
		_, rest, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
		id, _, _ := strings.Cut(rest, "/")
		key.Store(id)
	}
	used := func(s objstore.Store) any {
		t.Helper()
		if err := s.Create(t.Context(), "x", nil); err != nil {
			t.Error(err)
		}
		return key.Load()
	}
	for _, file := range []string{"", "/no/such/file", credentialsFile(t, "", "", ""),
		credentialsFile(t, "", "half", "")} {
		if _, err := objstore.Open(t.Context(), "s3://bucket", objstore.Options{CredentialsFile: file}); !fail.Is(err,
			fail.Denied) || fail.HintOf(err) == "" {
			t.Errorf("open with credentials file %q: %v", file, err)
		}
	}
	file := credentialsFile(t, "", "first", "secret")
	s := openFake(t, h, objstore.Options{CredentialsFile: file})
	if got := used(s); got != "first" {
		t.Errorf("signed by %v", got)
	}
	credentialsFile(t, file, "second", "secret")
	if err := os.Chtimes(file, time.Now(), time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if got := used(s); got != "second" {
		t.Errorf("after rotation, signed by %v", got)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got := used(s); got != "second" {
		t.Errorf("without the file, signed by %v", got)
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", credentialsFile(t, "", "shared", "secret"))
	srv := httptest.NewServer(http.HandlerFunc(h))
	defer srv.Close()
	env := func() any {
		s := open(t, "s3://bucket", objstore.Options{Endpoint: srv.URL})
		defer func() { _ = s.Close() }()
		return used(s)
	}
	if got := env(); got != "shared" {
		t.Errorf("signed by %v", got)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "env")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	if got := env(); got != "env" {
		t.Errorf("signed by %v", got)
	}
}

// TestS3TLS runs the suite through TLS, with the authority from a file.
func TestS3TLS(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			srv := startServer(t, kind)
			upstream, err := url.Parse(srv.Endpoint)
			if err != nil {
				t.Fatal(err)
			}
			transport := &http.Transport{MaxIdleConnsPerHost: 64}
			defer transport.CloseIdleConnections()
			front := httptest.NewUnstartedServer(&httputil.ReverseProxy{
				Transport: transport,
				Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(upstream); r.Out.Host = r.In.Host },
			})
			front.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are part of the test
			front.StartTLS()
			defer front.Close()
			ca := filepath.Join(t.TempDir(), "ca.pem")
			block := &pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw}
			if err := os.WriteFile(ca, pem.EncodeToMemory(block), 0o600); err != nil {
				t.Fatal(err)
			}
			objstoretest.Run(t, func(t *testing.T) objstore.Store {
				return openS3(t, srv, front.URL, objstore.Options{CAFile: ca})
			})
			if kind != s3test.VersityGW {
				return
			}
			if err := openS3(t, srv, front.URL, objstore.Options{}).
				Create(t.Context(), "x", nil); !fail.Is(err, fail.Invalid) ||
				!strings.Contains(fail.HintOf(err), "CA") {
				t.Errorf("unknown authority: %v, hint %q", err, fail.HintOf(err))
			}
			s := openS3(t, srv, "https"+strings.TrimPrefix(srv.Endpoint, "http"), objstore.Options{})
			if err := s.Create(t.Context(), "x", nil); !fail.Is(err, fail.Invalid) || fail.HintOf(err) == "" {
				t.Errorf("TLS to a plain server: %v, hint %q", err, fail.HintOf(err))
			}
		})
	}
}
