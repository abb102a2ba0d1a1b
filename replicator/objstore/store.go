package objstore

import (
	"context"
	"net/url"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Store holds immutable objects under names of one or more levels, such as
// "log/00000000000000000042". A name consists of letters, digits and -_.= in
// levels divided by single slashes, none of which begins with a dot; and no
// object's name is the first levels of another's (a directory cannot hold both
// "a" and "a/b").
//
// All methods may be called concurrently. A cancelled context ends a call with
// an error that wraps the context's.
type Store interface {
	// URL names the store, without credentials.
	URL() string

	// Create writes name with body unless it exists: then the error is of kind
	// fail.Exists, and the object keeps its content. The object is durable when
	// Create returns nil. After an error other than Exists it is open whether
	// the object was, or still will be, created. body is only read.
	Create(ctx context.Context, name string, body []byte) error

	// Read returns the bytes [off, off+n) of name; n < 0 means to the end.
	// off < 0 means the last -off bytes, whatever n: an object shorter than that
	// is returned whole. The result is shorter than asked only where the object
	// ends, and empty beyond it. It uses buf's array where that is large enough.
	// An absent object is fail.NotFound. With an error of kind fail.Retry it may return
	// the first of those bytes, as far as they came.
	Read(ctx context.Context, name string, off, n int64, buf []byte) ([]byte, error)

	// Size returns the length of name in bytes, or fail.NotFound.
	Size(ctx context.Context, name string) (int64, error)

	// List calls fn, in the order of their bytes, for the names that begin with
	// prefix and come after `after` ("" = from the first). An error of fn ends
	// the list and is returned as it is. Objects created or deleted meanwhile
	// may be missed or met.
	List(ctx context.Context, prefix, after string, fn func(Info) error) error

	// Delete removes name, all its versions; an absent name is no error. Only garbage
	// collection and tests call it.
	Delete(ctx context.Context, name string) error

	// LockRule returns for how long the store keeps new objects from deletion without
	// being asked; the zero rule where it does not.
	LockRule(ctx context.Context) (LockRule, error)

	// Lock returns until when name is kept from deletion by a date of its own, or
	// fail.NotFound. A store that cannot lock returns the zero Lock. Of several versions
	// the first counts, which Create made, here and for Extend.
	Lock(ctx context.Context, name string) (Lock, error)

	// Extend keeps name from deletion until l.Until at least, in l.Mode. A store that
	// cannot lock is fail.Unsupported.
	Extend(ctx context.Context, name string, l Lock) error

	// Close gives back connections and files. Calls must have ended before.
	Close() error
}

// Info describes one object of a List.
type Info struct {
	Name     string
	Bytes    int64
	Modified time.Time // the store's clock: for people, never for ordering
	Tag      string    // another for another content; "" where the store has none
}

// Options says how a store is reached. The zero value has working defaults.
type Options struct {
	// FS carries file:// stores; nil is vfs.Default.
	FS vfs.FS

	// ReadOnly opens a file:// store as it is: nothing is made, and a directory
	// that does not exist is fail.NotFound.
	ReadOnly bool
	// Existing is that of a file:// store which may be written to: its directory is not made either.
	Existing bool

	// Endpoint is the S3 server, as http(s)://host:port. Empty is Amazon's.
	Endpoint string
	// Region of the bucket. Empty is AWS_REGION, AWS_DEFAULT_REGION, then
	// us-east-1 for an Endpoint and the bucket's own region without one.
	Region string
	// PathStyle puts the bucket into the path instead of the host name. Servers
	// reached by address or by a plain name need it and get it without asking.
	PathStyle bool
	// CredentialsFile is in AWS format, its profile AWS_PROFILE or "default";
	// it is read again when it changes. Empty means AWS_ACCESS_KEY_ID,
	// AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, then the file that
	// AWS_SHARED_CREDENTIALS_FILE names. There is no other source.
	CredentialsFile string
	// CAFile holds PEM certificates trusted for Endpoint, besides the system's.
	CAFile string
	// Timeout bounds how long an attempt makes no progress: 16 KiB of a reply,
	// a piece of a body that the connection takes, or the reply to it, for which
	// each 256 KiB of the body add a second. Default 15 s. Expiry is a fail.Retry.
	Timeout time.Duration
	// MaxConnections bounds connections to the store, idle ones included.
	// Default 64.
	MaxConnections int

	// Lock is what Create asks an S3 server for.
	Lock LockRule

	// Observe, if set, hears of every attempt when it ends; see WithObserver.
	Observe func(Request)

	// Dates, if set, hears of the time of each answer, before the call returns.
	Dates *Dates
}

// Open opens the store that rawURL names: file:///directory or
// s3://bucket/prefix. It does not ask an S3 server anything yet.
func Open(ctx context.Context, rawURL string, opts Options) (Store, error) {
	const op = "open object store"
	if err := ctx.Err(); err != nil {
		return nil, fail.Wrap(fail.Retry, op, "", err)
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		// url.Error quotes its input, which may hold a password.
		return nil, fail.New(fail.Invalid, op, "", "not a URL").WithHint("use file:///directory or s3://bucket/prefix")
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fail.New(fail.Invalid, op, u.Scheme+"://"+u.Host+u.Path,
			"a store's URL has no user, query or fragment").
			WithHint("give credentials by AWS_* variables or a credentials file")
	}
	var s Store
	switch u.Scheme {
	case "file":
		s, err = openFile(u, opts)
	case "s3":
		s, err = openS3(u, opts)
	default:
		return nil, fail.New(fail.Invalid, op, rawURL, "unknown scheme").
			WithHint("use file:///directory or s3://bucket/prefix")
	}
	if err != nil {
		return nil, err
	}
	if opts.Observe != nil {
		s = WithObserver(s, opts.Observe)
	}
	return s, nil
}

// maxName keeps names below what S3 (1024 bytes) and paths bear, prefix included.
const maxName = 512

// checkName refuses what some store would take for something else.
func checkName(op, name string) error {
	if name == "" || len(name) > maxName {
		return fail.New(fail.Invalid, op, name, "an object's name has 1 to 512 bytes")
	}
	for level := range strings.SplitSeq(name, "/") {
		if level == "" || level[0] == '.' || len(level) > 200 {
			return fail.New(fail.Invalid, op, name,
				"a level of an object's name is empty, begins with a dot or is too long")
		}
	}
	return checkChars(op, name)
}

// checkChars lets through what needs no escaping anywhere.
func checkChars(op, name string) error {
	for i := range len(name) {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("-_.=/", c) >= 0:
		default:
			return fail.New(fail.Invalid, op, name, "an object's name consists of letters, digits and -_.=/")
		}
	}
	return nil
}

// checkList refuses what List cannot take, and says whether any name can begin
// with prefix: some stores refuse the others.
func checkList(op, prefix, after string) (possible bool, err error) {
	if err := checkChars(op, prefix+after); err != nil {
		return false, err
	}
	rooted := "/" + prefix
	return !strings.Contains(rooted, "//") && !strings.Contains(rooted, "/."), nil
}

// resolve turns Read's off and n into the range [start, end) of an object of
// size bytes.
func resolve(off, n, size int64) (start, end int64) {
	if off < 0 {
		return max(0, size+off), size
	}
	if start = min(off, size); n < 0 || n > size-start {
		return start, size
	}
	return start, start + n
}

// grow returns buf with length n, in buf's array where that suffices.
func grow(buf []byte, n int64) []byte {
	if int64(cap(buf)) >= n {
		return buf[:n]
	}
	return make([]byte, n)
}
