package objstore

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/fail"
)

const amazonEndpoint = "https://s3.amazonaws.com"

// The client sleeps for up to this long even after its last attempt, of which
// it has one: all waiting is WithRetry's.
func init() { minio.DefaultRetryUnit = 0 }

// newClient makes the S3 client and the connection pool under it.
func newClient(op string, opts Options) (*minio.Client, *caTransport, error) {
	if opts.Region == "" {
		if opts.Region = os.Getenv("AWS_REGION"); opts.Region == "" {
			opts.Region = os.Getenv("AWS_DEFAULT_REGION")
		}
	}
	if opts.Endpoint == "" {
		opts.Endpoint = amazonEndpoint
	} else if opts.Region == "" {
		// Else the client asks for the bucket's location, which credentials
		// as narrow as they should be do not allow.
		opts.Region = "us-east-1"
	}
	u, err := url.Parse(opts.Endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" ||
		u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		what := fmt.Sprintf("the endpoint %q", opts.Endpoint)
		if strings.ContainsAny(opts.Endpoint, "@?#") { // which may hold a password
			what = "the endpoint"
		}
		return nil, nil, fail.New(fail.Invalid, op, "", what+" is not http(s)://host:port").
			WithHint("write it with its scheme, in --endpoint or a target's endpoint")
	}
	creds, err := newCredentials(op, opts.CredentialsFile)
	if err != nil {
		return nil, nil, err
	}
	transport, err := newTransport(op, opts)
	if err != nil {
		return nil, nil, err
	}
	lookup := minio.BucketLookupAuto
	if opts.PathStyle || needsPathStyle(u.Hostname()) {
		lookup = minio.BucketLookupPath
	}
	client, err := minio.New(u.Host, &minio.Options{
		Creds: creds, Secure: u.Scheme == "https", Transport: answers{transport, opts.Dates}, Region: opts.Region,
		BucketLookup:    lookup,
		TrailingHeaders: true, // which the client wants for any checksum, trailing or not
		MaxRetries:      1,    // WithRetry does it, and knows what a lost reply means
	})
	if err != nil {
		return nil, nil, fail.Wrap(fail.Invalid, op, u.String(), err)
	}
	client.SetAppInfo("pollux", "1")
	return client, transport, nil
}

// needsPathStyle: no bucket's name can be put before an address or a name
// without dots.
func needsPathStyle(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return !strings.Contains(host, ".")
}

// unsentBytes are what a connection takes beyond what the network has room for.
const unsentBytes = 128 << 10

// sendPromptly keeps the kernel from swallowing a body of megabytes at once: what a
// connection has taken shall say how far the request has come.
func sendPromptly(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		// Without it only timeouts are worse.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentBytes)
	})
}

// newTransport keeps connections warm: over a WAN a cold one costs several
// round trips before a segment is through. HTTP/1.1 on purpose, since one
// HTTP/2 connection would carry everything through a single TCP window.
func newTransport(op string, opts Options) (*caTransport, error) {
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{
			Timeout:   10 * time.Second,
			KeepAlive: 15 * time.Second,
			Control:   sendPromptly,
		}).DialContext,
		TLSHandshakeTimeout:    10 * time.Second,
		MaxIdleConns:           opts.MaxConnections,
		MaxIdleConnsPerHost:    opts.MaxConnections,
		MaxConnsPerHost:        opts.MaxConnections,
		IdleConnTimeout:        5 * time.Minute,
		MaxResponseHeaderBytes: 64 << 10,
		WriteBufferSize:        64 << 10,
		ReadBufferSize:         64 << 10,
		DisableCompression:     true, // lengths and ranges must be the object's
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
	}
	c := &caTransport{op: op, file: opts.CAFile, current: t}
	if err := c.refresh(); err != nil {
		return nil, err
	}
	return c, nil
}
