package objstore

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/pollux-dr/pollux/internal/fail"
)

const hintCredentials = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the credentials file and AWS_PROFILE"

// newCredentials takes the first source that Options.CredentialsFile names, and
// reads it once so that a mistake shows at start.
func newCredentials(op, file string) (*credentials.Credentials, error) {
	if file == "" && os.Getenv("AWS_ACCESS_KEY_ID") == "" {
		file = os.Getenv("AWS_SHARED_CREDENTIALS_FILE")
	}
	var c *credentials.Credentials
	if file == "" {
		c = credentials.NewEnvAWS()
	} else {
		c = credentials.New(&fileCredentials{path: file})
	}
	v, err := c.GetWithContext(nil)
	if err == nil && (v.AccessKeyID == "" || v.SecretAccessKey == "") {
		// The client would send unsigned requests.
		err = errors.New("no credentials")
	}
	if err != nil {
		return nil, &fail.Error{Kind: fail.Denied, Op: op, Object: file, Err: err, Hint: hintCredentials}
	}
	return c, nil
}

// fileCredentials reads an AWS credentials file, and again when it changes:
// keys are rotated under a running daemon.
type fileCredentials struct {
	path string

	mu       sync.Mutex
	file     *credentials.FileAWSCredentials
	expires  bool // and file knows when
	modified time.Time
}

// credentialsError marks errors of the credentials file among the client's.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return e.err.Error() }
func (e *credentialsError) Unwrap() error { return e.err }

func (c *fileCredentials) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// The time before the content: a change in between is then seen later.
	st, err := os.Stat(c.path)
	if err != nil {
		return credentials.Value{}, &credentialsError{err}
	}
	file := &credentials.FileAWSCredentials{Filename: c.path}
	v, err := file.RetrieveWithCredContext(cc)
	if err == nil && (v.AccessKeyID == "" || v.SecretAccessKey == "") {
		err = errors.New("no credentials in " + c.path)
	} else if err != nil {
		err = unquoted(err)
	}
	if err != nil {
		return credentials.Value{}, &credentialsError{err}
	}
	c.file, c.expires, c.modified = file, !v.Expiration.IsZero(), st.ModTime()
	return v, nil
}

// unquoted is an error of reading a credentials file without what the file says: a
// parser quotes the line that it cannot read, which may be a key.
func unquoted(err error) error {
	var path *fs.PathError
	profile := "profile " + cmp.Or(os.Getenv("AWS_PROFILE"), "default")
	switch text := err.Error(); {
	case errors.As(err, &path):
		return path
	case strings.Contains(text, "partial static credentials"):
		return errors.New(profile + " has only one of aws_access_key_id and aws_secret_access_key")
	case strings.HasPrefix(text, "section ") && strings.HasSuffix(text, " does not exist"):
		return errors.New("it has no " + profile)
	}
	return errors.New(profile + " gives no credentials: the file is not in AWS format, or its credential_process fails")
}

func (c *fileCredentials) Retrieve() (credentials.Value, error) {
	return c.RetrieveWithCredContext(nil)
}

// IsExpired is asked before every request. A file that is gone for now is no
// reason to stop: the keys in hand may still be good.
func (c *fileCredentials) IsExpired() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.file == nil || c.expires && c.file.IsExpired() {
		return true
	}
	st, err := os.Stat(c.path)
	return err == nil && !st.ModTime().Equal(c.modified)
}
