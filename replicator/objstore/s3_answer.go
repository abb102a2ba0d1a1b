package objstore

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/pollux-dr/pollux/internal/fail"
)

// answers is a transport that lets only those successes through that an object store may
// answer with. A proxy, a balancer or a captive portal in between answers 200 too, and the
// client would take a page of text for an empty list, an object, or a create that is durable.
type answers struct {
	http.RoundTripper
	dates *Dates
}

// answerError is of an answer that is not an object store's. It passes.
type answerError struct{ text string }

func (e *answerError) Error() string { return e.text }

const hintAnswer = "the answer is not an object store's: check the endpoint and what is in between"

// RoundTrip implements http.RoundTripper.
func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := a.RoundTripper.RoundTrip(r)
	if err == nil {
		date, _ := http.ParseTime(resp.Header.Get("Date")) // else zero
		a.dates.Note(date)
	}
	if err != nil || resp.StatusCode < 200 || resp.StatusCode > 299 {
		return resp, err
	}
	if err := checkAnswer(r, resp); err != nil {
		_ = resp.Body.Close() // it is not used
		return nil, err
	}
	return resp, nil
}

// checkAnswer checks a success.
func checkAnswer(r *http.Request, resp *http.Response) error {
	strange := func(format string, args ...any) error {
		return &answerError{fmt.Sprintf("answered %s with ", resp.Status) + fmt.Sprintf(format, args...)}
	}
	typ, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if r.Method == http.MethodPut || r.Method == http.MethodDelete { // whose empty answer may be of any type
		if n, _ := io.CopyN(io.Discard, resp.Body, 1); n > 0 {
			return strange("a body where none belongs")
		}
		return nil
	}
	if typ == "text/html" {
		return strange("a page of HTML")
	}
	if root := documentOf(r); root != "" {
		return checkDocument(resp, root, strange)
	}
	switch {
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent:
		return strange("no object")
	case typ == "application/xml" || typ == "text/xml": // objects of Pollux are bytes to everyone
		return strange("a document where an object was asked for")
	case resp.Header.Get("ETag") == "":
		return strange("what has no ETag, as each object has")
	}
	return nil
}

// documentOf is the root element of what a GET asks for; "" is an object.
func documentOf(r *http.Request) string {
	q := r.URL.Query()
	switch {
	case r.Method != http.MethodGet:
	case q.Has("list-type"):
		return "ListBucketResult"
	case q.Has("versions"):
		return "ListVersionsResult"
	case q.Has("versioning"):
		return "VersioningConfiguration"
	case q.Has("object-lock"):
		return "ObjectLockConfiguration"
	case q.Has("location"):
		return "LocationConstraint"
	}
	return ""
}

// maxDocumentBytes is far above a page of a list with the longest names.
const maxDocumentBytes = 16 << 20

// checkDocument reads the answer's document to its end, and puts it back.
func checkDocument(resp *http.Response, root string, strange func(string, ...any) error) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxDocumentBytes+1))
	if err != nil {
		return err
	}
	if len(b) > maxDocumentBytes {
		return strange("a document of more than %d bytes", maxDocumentBytes)
	}
	if name := rootElement(b); name != root {
		return strange("a document %q where %q was asked for", name, root)
	}
	if n, names := keyCount(b), bytes.Count(b, []byte("<Contents>")); n > names { // there is no delimiter, nor prefixes
		return strange("a list of %d names that says it has %d", names, n)
	}
	_ = resp.Body.Close() // read to its end
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
	return nil
}

// rootElement is the name of a document's first element.
func rootElement(b []byte) string {
	for d := xml.NewDecoder(bytes.NewReader(b)); ; {
		t, err := d.RawToken()
		if err != nil {
			return ""
		}
		if e, ok := t.(xml.StartElement); ok {
			return e.Name.Local
		}
	}
}

// keyCount is how many names a list says that it has; 0 where it does not say.
func keyCount(b []byte) int {
	_, rest, _ := bytes.Cut(b, []byte("<KeyCount>"))
	digits, _, _ := bytes.Cut(rest, []byte("<"))
	n, _ := strconv.Atoi(string(digits))
	return n
}

// prove returns nil where body is in the store after a PUT that was answered by success.
// Nearly all servers name the checksum that was sent; the others' ETag is the body's MD5, or
// the object is looked at.
func (s *s3Store) prove(ctx context.Context, op, name string, info minio.UploadInfo, checksum string,
	body []byte) error {
	if info.ChecksumCRC32C == checksum {
		return nil
	}
	sum := md5.Sum(body)
	if strings.EqualFold(info.ETag, hex.EncodeToString(sum[:])) {
		return nil
	}
	// One byte more, so that a longer object is not taken for equal.
	there, err := s.Read(ctx, name, 0, int64(len(body))+1, nil)
	switch {
	case err == nil && bytes.Equal(there, body):
		return nil
	case err == nil:
		err = errors.New("answered with success, and the object holds other bytes")
	case fail.Is(err, fail.NotFound):
		err = errors.New("answered with success, and there is no such object")
	default:
		return err
	}
	return &fail.Error{Kind: fail.Retry, Op: op, Object: s.object(name), Err: err, Hint: hintAnswer}
}
