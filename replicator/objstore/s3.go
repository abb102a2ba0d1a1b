package objstore

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/pollux-dr/pollux/internal/fail"
)

const (
	defaultTimeout        = 15 * time.Second
	defaultMaxConnections = 64
	// checksumHeader goes with each PUT, and is signed: the server refuses a
	// body that does not match. A trailing one would be refused over plain HTTP.
	checksumHeader = "x-amz-checksum-crc32c"

	opCreate = "create object"
	opList   = "list objects"
	opDelete = "delete object"
	opExtend = "extend retention of object"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type s3Store struct {
	core           minio.Core
	transport      *caTransport
	bucket, prefix string // prefix is "" or ends in a slash
	timeout        time.Duration
	lock           LockRule
	versioned      struct {
		sync.Mutex
		on    bool
		asked time.Time
	}
}

func openS3(u *url.URL, opts Options) (Store, error) {
	const op = "open object store"
	prefix := strings.Trim(u.Path, "/")
	if u.Host == "" || u.Port() != "" {
		return nil, fail.New(fail.Invalid, op, u.String(), "no bucket").
			WithHint("write s3://bucket/prefix; the server's address is the endpoint")
	}
	// The client would refuse the name at each request, as if the store had.
	if err := s3utils.CheckValidBucketName(u.Host); err != nil {
		return nil, fail.New(fail.Invalid, op, u.String(), err.Error()).
			WithHint("correct the bucket in the URL (--store, or the url of a target)")
	}
	if prefix != "" {
		if err := checkName(op, prefix); err != nil {
			return nil, err
		}
		prefix += "/"
	}
	if opts.Timeout <= 0 {
		opts.Timeout = defaultTimeout
	}
	if opts.MaxConnections <= 0 {
		opts.MaxConnections = defaultMaxConnections
	}
	client, transport, err := newClient(op+" "+u.String(), opts)
	if err != nil {
		return nil, err
	}
	return &s3Store{
		core: minio.Core{Client: client}, transport: transport,
		bucket: u.Host, prefix: prefix, timeout: opts.Timeout, lock: opts.Lock,
	}, nil
}

func (s *s3Store) URL() string { return "s3://" + strings.TrimSuffix(s.bucket+"/"+s.prefix, "/") }

func (s *s3Store) object(name string) string { return "s3://" + s.bucket + "/" + s.prefix + name }

func (s *s3Store) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}

func (s *s3Store) Create(ctx context.Context, name string, body []byte) error {
	const op = opCreate
	if err := s.check(ctx, op, name); err != nil {
		return err
	}
	sum := base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.Checksum(body, castagnoli)))
	opts := minio.PutObjectOptions{
		// The checksum covers the body; hashing it once more for the signature
		// would cost a core several times as much.
		DisableContentSha256: true,
		DisableMultipart:     true, // a conditional create is one request
		UserMetadata:         map[string]string{checksumHeader: sum},
	}
	opts.SetMatchETagExcept("*")
	if s.lock.For > 0 {
		opts.Mode, opts.RetainUntilDate = minio.RetentionMode(s.lock.Mode), time.Now().Add(s.lock.For)
	}
	a := s.attempt(ctx)
	defer a.end()
	info, err := s.core.Client.PutObject(a.ctx, s.bucket, s.prefix+name, &sending{a, bytes.NewReader(body)},
		int64(len(body)), opts)
	if err != nil {
		return s.error(a, op, name, err)
	}
	return s.prove(ctx, op, name, info, sum, body)
}

func (s *s3Store) Read(ctx context.Context, name string, off, n int64, buf []byte) ([]byte, error) {
	const op = "read object"
	if n == 0 && off >= 0 {
		_, err := s.Size(ctx, name) // a range cannot be empty
		return buf[:0], err
	}
	if err := s.check(ctx, op, name); err != nil {
		return nil, err
	}
	a := s.attempt(ctx)
	defer a.end()
	r, err := s.get(a, name, byteRange(off, n))
	if err != nil {
		if outOfRange(err) {
			return buf[:0], nil
		}
		return nil, s.error(a, op, name, err)
	}
	defer func() { _ = r.body.Close() }() // only read
	start, end := resolve(off, n, r.size)
	if r.first == 0 && r.bytes == r.size {
		// Some servers answer with the whole object where a range covers it.
		if _, err = io.CopyN(io.Discard, r.body, start); err != nil {
			return nil, s.error(a, op, name, err)
		}
	} else if r.first != start || r.bytes != end-start {
		return nil, fail.New(fail.Retry, op, s.object(name),
			fmt.Sprintf("the store sent %d bytes from %d where %d from %d were asked for", r.bytes, r.first, end-start,
				start)).WithHint(hintAnswer)
	}
	buf, err = a.readBody(r.body, end-start, buf)
	return buf, s.error(a, op, name, err)
}

// Size asks by a GET of one byte, since a HEAD has no body to say whether it is
// the object or the bucket that is not there.
func (s *s3Store) Size(ctx context.Context, name string) (int64, error) {
	const op = "size of object"
	if err := s.check(ctx, op, name); err != nil {
		return 0, err
	}
	a := s.attempt(ctx)
	defer a.end()
	r, err := s.get(a, name, byteRange(0, 1))
	if outOfRange(err) {
		return 0, nil
	}
	if err != nil {
		return 0, s.error(a, op, name, err)
	}
	return r.size, s.error(a, op, name, r.body.Close())
}

// reply is a GET's: `bytes` of body are the object's from first on.
type reply struct {
	body               io.ReadCloser
	first, bytes, size int64
}

func (s *s3Store) get(a *attempt, name, rng string) (reply, error) {
	var opts minio.GetObjectOptions
	if rng != "" {
		opts.Set("Range", rng)
	}
	body, info, header, err := s.core.GetObject(a.ctx, s.bucket, s.prefix+name, opts)
	if err != nil {
		return reply{}, err
	}
	r := reply{body: body, bytes: info.Size, size: info.Size}
	if cr := header.Get("Content-Range"); cr != "" {
		var last int64
		_, err = fmt.Sscanf(cr, "bytes %d-%d/%d", &r.first, &last, &r.size)
		switch n := last - r.first + 1; {
		case err != nil:
		case r.bytes < 0: // something on the way sends it in chunks
			r.bytes = n
		case n != r.bytes:
			err = fmt.Errorf("range %q has a body of %d bytes", cr, r.bytes)
		}
	} else if r.bytes < 0 {
		err = fmt.Errorf("the answer has no length")
	}
	if err != nil {
		_ = body.Close()
		return reply{}, err
	}
	return r, nil
}

// byteRange is Read's off and n as a Range header; "" is the whole object.
func byteRange(off, n int64) string {
	switch {
	case off < 0:
		return fmt.Sprintf("bytes=%d", off)
	case n >= 0:
		return fmt.Sprintf("bytes=%d-%d", off, off+n-1)
	case off > 0:
		return fmt.Sprintf("bytes=%d-", off)
	}
	return ""
}

func (s *s3Store) List(ctx context.Context, prefix, after string, fn func(Info) error) error {
	const op = opList
	if possible, err := checkList(op, prefix, after); err != nil || !possible {
		return errors.Join(err, fail.Wrap(fail.Retry, op, s.object(prefix), ctx.Err()))
	}
	for {
		page, last, err := s.listPage(ctx, op, prefix, after)
		if err != nil {
			return err
		}
		// Between pages, so that a slow fn does not run into the timeout.
		for _, info := range page {
			if err := fn(info); err != nil {
				return err
			}
		}
		if last {
			return nil
		}
		after = page[len(page)-1].Name
	}
}

// listPage returns the next names after `after`, and whether they are the last.
func (s *s3Store) listPage(ctx context.Context, op, prefix, after string) ([]Info, bool, error) {
	const pageSize = 1000
	opts := minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true, MaxKeys: pageSize}
	if after != "" {
		opts.StartAfter = s.prefix + after
	}
	a := s.attempt(ctx)
	defer a.end()
	var page []Info
	for obj := range s.core.Client.ListObjectsIter(a.ctx, s.bucket, opts) {
		if obj.Err != nil {
			return nil, false, s.error(a, op, prefix, obj.Err)
		}
		name := strings.TrimPrefix(obj.Key, s.prefix)
		// Not ours: what a console leaves for a "folder", or a server that
		// does not begin where it was told to.
		if strings.HasSuffix(name, "/") || name <= after && after != "" {
			continue
		}
		page = append(page, Info{Name: name, Bytes: obj.Size, Modified: obj.LastModified,
			Tag: strings.Trim(obj.ETag, `"`)})
		if len(page) == pageSize {
			return page, false, nil
		}
	}
	// The iterator ends without a word when its context does.
	return page, true, s.error(a, op, prefix, a.ctx.Err())
}

func (s *s3Store) Delete(ctx context.Context, name string) error {
	const op = opDelete
	if err := s.check(ctx, op, name); err != nil {
		return err
	}
	if err := s.remove(ctx, op, name); !fail.Is(err, fail.NotFound) {
		return err
	}
	return nil
}

func (s *s3Store) check(ctx context.Context, op, name string) error {
	if err := checkName(op, name); err != nil {
		return err
	}
	return fail.Wrap(fail.Retry, op, s.object(name), ctx.Err())
}
