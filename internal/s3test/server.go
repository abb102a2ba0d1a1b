package s3test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/pollux-dr/pollux/internal/child"
)

// The keys of every Server: it serves loopback only, for the time of a test.
const (
	accessKey = "pollux-test"
	secretKey = "pollux-test-secret"
)

// startTimeout bounds the time until a started server answers.
const startTimeout = 60 * time.Second

// Server is a running S3 server. Its methods are for one goroutine at a time.
type Server struct {
	Kind     string
	Endpoint string // http://127.0.0.1:port
	// CredentialsFile holds the server's keys in AWS format.
	CredentialsFile string

	binary string
	dir    string
	port   *port
	proc   *child.Process // nil while killed
}

// Start runs a server of kind, VersityGW or MinIO, with its data below dir,
// which must exist. It returns when the server answers. The caller must Stop it.
func Start(ctx context.Context, kind, dir string) (*Server, error) {
	return StartVerbose(ctx, kind, dir, nil)
}

// StartVerbose is Start that tells say when it has to build the program first.
func StartVerbose(ctx context.Context, kind, dir string, say func(string)) (*Server, error) {
	binary, err := Binary(ctx, kind, say)
	if err != nil {
		return nil, err
	}
	for _, sub := range []string{"data", "home", "versions"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	s := &Server{Kind: kind, binary: binary, dir: dir, CredentialsFile: filepath.Join(dir, "credentials")}
	keys := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", accessKey, secretKey)
	if err := os.WriteFile(s.CredentialsFile, []byte(keys), 0o600); err != nil {
		return nil, err
	}
	// A program that does not know our claims may have the port all the same.
	for range 5 {
		if s.port, err = reservePort(); err != nil {
			return nil, err
		}
		s.Endpoint = "http://" + s.port.address()
		if err = s.run(ctx); err == nil {
			return s, nil
		}
		err = errors.Join(err, s.port.release())
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

// Env returns the AWS_* variables, as KEY=value, with which a client reaches
// the server.
func (s *Server) Env() []string {
	return []string{"AWS_ACCESS_KEY_ID=" + accessKey, "AWS_SECRET_ACCESS_KEY=" + secretKey, "AWS_REGION=us-east-1"}
}

// CreateBucket makes a bucket; one that exists is fine.
func (s *Server) CreateBucket(ctx context.Context, name string) error {
	return s.withClient(func(c *minio.Client) error { return create(ctx, c, name, minio.MakeBucketOptions{}) })
}

// CreateLockedBucket makes a bucket with versions and Object Lock. A time of days that
// is not 0 is its default retention, in mode GOVERNANCE or COMPLIANCE.
func (s *Server) CreateLockedBucket(ctx context.Context, name, mode string, days uint) error {
	return s.withClient(func(c *minio.Client) error {
		if err := create(ctx, c, name, minio.MakeBucketOptions{ObjectLocking: true}); err != nil || days == 0 {
			return err
		}
		m, unit := minio.RetentionMode(mode), minio.Days
		return c.SetObjectLockConfig(ctx, name, &m, &days, &unit)
	})
}

// DeleteAll deletes every version of every object that the server lets go, as its
// owner, and returns how many went and how many stayed.
func (s *Server) DeleteAll(ctx context.Context, bucket string) (gone, stayed int, err error) {
	err = s.withClient(func(c *minio.Client) error {
		for o := range c.ListObjectsIter(ctx, bucket, minio.ListObjectsOptions{Recursive: true, WithVersions: true}) {
			if o.Err != nil {
				return o.Err
			}
			if err := c.RemoveObject(ctx, bucket, o.Key,
				minio.RemoveObjectOptions{VersionID: o.VersionID}); err != nil {
				stayed++
				continue
			}
			gone++
		}
		return nil
	})
	return gone, stayed, err
}

func create(ctx context.Context, c *minio.Client, name string, o minio.MakeBucketOptions) error {
	err := c.MakeBucket(ctx, name, o)
	if minio.ToErrorResponse(err).Code == minio.BucketAlreadyOwnedByYou {
		return nil
	}
	return err
}

// withClient calls fn with a client for what Pollux itself never does.
func (s *Server) withClient(fn func(c *minio.Client) error) error {
	c, err := s.Client()
	if err != nil {
		return err
	}
	return fn(c)
}

// Client is the server's owner. It keeps no connections.
func (s *Server) Client() (*minio.Client, error) {
	return minio.New(s.port.address(), &minio.Options{
		Creds: credentials.NewStaticV4(accessKey, secretKey, ""), Transport: &http.Transport{DisableKeepAlives: true},
		Region: "us-east-1", BucketLookup: minio.BucketLookupPath,
	})
}

// Kill ends the server with SIGKILL and waits until it is gone. Killing what is
// not running is fine.
func (s *Server) Kill() error {
	if s.proc == nil {
		return nil
	}
	s.proc.Kill()
	s.proc = nil
	return nil
}

// Restart kills the server if it runs, and starts it again on the same port
// and data.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.Kill(); err != nil {
		return err
	}
	return s.run(ctx)
}

// Stop kills the server and gives back its port; the data stay. A Server can be
// stopped twice.
func (s *Server) Stop() error {
	err := s.Kill()
	if s.port != nil {
		err = errors.Join(err, s.port.release())
		s.port = nil
	}
	return err
}

// run starts the process and waits until it answers.
func (s *Server) run(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(s.dir, "server.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(s.binary, s.args()...)
	cmd.Dir = s.dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Join(s.dir, "home"),
		"ROOT_ACCESS_KEY=" + accessKey, "ROOT_SECRET_KEY=" + secretKey, // versitygw
		"MINIO_ROOT_USER=" + accessKey, "MINIO_ROOT_PASSWORD=" + secretKey,
		"MINIO_BROWSER=off", "MINIO_UPDATE=off", "MINIO_CI_CD=1", // the last lets it use the root disk
	}
	cmd.Stdout, cmd.Stderr = log, log
	proc, err := child.Start(cmd)
	if err != nil {
		return fmt.Errorf("start %s: %w", s.Kind, err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := s.await(ctx, proc); err != nil {
		proc.Kill()
		out, _ := os.ReadFile(log.Name()) // what there is of it
		return fmt.Errorf("start %s: %w\n%s", s.Kind, err, out)
	}
	s.proc = proc
	return nil
}

func (s *Server) args() []string {
	data := filepath.Join(s.dir, "data")
	if s.Kind == MinIO {
		return []string{"server", "--quiet", "--address", s.port.address(), "--certs-dir",
			filepath.Join(s.dir, "home"), data}
	}
	// Without --keep-alive it closes the connection after each request.
	return []string{"--quiet", "--keep-alive", "--port", s.port.address(), "posix", "--versioning-dir",
		filepath.Join(s.dir, "versions"), data}
}

// await polls until the server lists its buckets, as it will for a client, and knows who is
// nobody: MinIO answers its owner before it does.
func (s *Server) await(ctx context.Context, proc *child.Process) error {
	transport := &http.Transport{DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	list := func(key, secret string) error {
		c, err := minio.New(s.port.address(), &minio.Options{
			Creds: credentials.NewStaticV4(key, secret, ""), Transport: transport, Region: "us-east-1", MaxRetries: 1,
		})
		if err == nil {
			_, err = c.ListBuckets(ctx)
		}
		return err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := list(accessKey, secretKey)
		if err == nil {
			if err = list("nobody", secretKey); minio.ToErrorResponse(err).StatusCode < http.StatusInternalServerError {
				return nil
			}
		}
		select {
		case <-proc.Done():
			return fmt.Errorf("it ended: %v", proc.Err())
		case <-ctx.Done():
			return fmt.Errorf("no answer: %w: %w", ctx.Err(), err)
		case <-tick.C:
		}
	}
}
