package api

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
	"net/http/httptrace"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/pki"
)

// Client calls a daemon.
type Client struct {
	socket string // or host:port
	scheme string
	http   http.Client
	limit  time.Duration // how long it may say nothing
	cert   string        // the file of the one that is shown

	// Told, if set, hears how far a verb is.
	Told func(line string)
}

const (
	// beatEvery is how often a daemon says that it carries a verb out, and silenceLimit how
	// long a client waits for the next word.
	beatEvery    = time.Second
	silenceLimit = 15 * time.Second
	connectLimit = 5 * time.Second
)

// DialTLS returns a client of the daemon at host:port, which knows the caller by a
// certificate.
func DialTLS(address string, files pki.Files) *Client {
	c := &Client{socket: address, scheme: "https", limit: silenceLimit, cert: files.Cert}
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: connectLimit}, Config: files.Client(pki.Journal, pki.Agent)}
	c.http.Transport = &http.Transport{DisableKeepAlives: true,
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", address)
		}}
	return c
}

// Dial returns a client of the daemon behind a unix socket. It connects with
// each call.
func Dial(socket string) *Client {
	c := &Client{socket: socket, scheme: "http", limit: silenceLimit}
	c.http.Transport = &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			d := net.Dialer{Timeout: connectLimit}
			return d.DialContext(ctx, "unix", socket)
		}}
	return c
}

// errSilent ends a call whose daemon says nothing, not even that it is still at work.
var errSilent = errors.New("it does not answer")

// Call sends req to verb and decodes the answer into resp. A daemon that is not
// there, or does not answer, is fail.Retry. A verb may take long; its daemon may not be silent for long.
func (c *Client) Call(ctx context.Context, verb string, req, resp any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return fail.Wrap(fail.Internal, "encode", verb, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(c.limit, func() { cancel(errSilent) })
	defer silence.Stop()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
			silence.Reset(c.limit)
			if line, err := strconv.Unquote(h.Get(progressHeader)); err == nil && c.Told != nil {
				c.Told(line)
			}
			return nil
		}})
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.scheme+"://pollux/v1/"+verb, bytes.NewReader(body))
	if err != nil {
		return fail.Wrap(fail.Internal, "call", verb, err)
	}
	r.Header.Set("Content-Type", "application/json")
	got, err := c.http.Do(r)
	if err != nil {
		return c.unreachable(ctx, err)
	}
	defer got.Body.Close()
	b, err := io.ReadAll(got.Body)
	if err != nil {
		return c.unreachable(ctx, err)
	}
	if got.StatusCode == http.StatusNotFound {
		return fail.New(fail.Refused, "call", verb, "the daemon at "+c.socket+" does not serve that verb").
			WithHint("`pollux journal …` goes to a member of a journal, everything else to an agent: " +
				"--socket or --address")
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

func (c *Client) unreachable(ctx context.Context, err error) error {
	e := &fail.Error{Kind: fail.Retry, Op: "reach daemon at", Object: c.socket, Err: err}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errSilent), errors.Is(cause, context.DeadlineExceeded):
		e.Err = errSilent
		return e.WithHint("the process is there and stands still: stopped (SIGSTOP, a debugger), or its host hangs")
	case errors.Is(err, os.ErrPermission):
		e.Kind = fail.Denied
		return e.WithHint("run as root or as the agent's user")
	case c.scheme == "https" && (fail.Is(err, fail.Denied) || errors.As(err, new(*tls.CertificateVerificationError)) ||
		strings.Contains(err.Error(), "tls: ")):
		e.Kind = fail.Denied
		if hint := fail.HintOf(err); hint != "" {
			return e.WithHint(hint)
		}
		if until, err := pki.Until(c.cert); err == nil && time.Now().After(until) {
			return e.WithHint("the certificate that is shown, " + c.cert + ", has expired on " +
				until.UTC().Format(time.DateOnly))
		}
		return e.WithHint("are both certificates of the same authority, " +
			"and is the address that of `control: {listen: …}`?")
	case c.scheme == "https":
		return e.WithHint("is the address that of the daemon's `control: {listen: …}`?")
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return e.WithHint("is `pollux agent` (or `pollux journal`) running? Name its control socket with --socket")
	}
	return e
}
