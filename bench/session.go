package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/s3test"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// session is what a run needs and leaves no trace of: a temporary directory, a
// directory on tmpfs, a place in an object store.
type session struct {
	journal *voters // that the agents use; nil: their own
	o       *Options
	dir     string
	tmpfs   string // the agent's runtime directory
	data    *corpus
	head    Header
	server  *s3test.Server
	store   string // URL below which prefixes are taken
	sopts   objstore.Options
	foreign bool // the store is not ours: what we created there is deleted one by one
	used    []string
	live    []objstore.Info // the volume as it is, for bare fetches
	n       int
}

// Header begins every report.
type Header struct {
	Benchmark string         `json:"benchmark"`
	Machine   Machine        `json:"machine"`
	Settings  map[string]any `json:"settings"`
	Seed      uint64         `json:"seed"`
	Store     string         `json:"store"`
	Started   time.Time      `json:"started"`
	Seconds   float64        `json:"seconds"` // the whole run
	Notes     []string       `json:"notes"`
}

const bucket = "bench"

func newSession(ctx context.Context, o *Options, name string) (s *session, err error) {
	s = &session{o: o, head: Header{Benchmark: name, Seed: o.Seed, Started: time.Now().UTC(), Notes: []string{}}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.dir, err = os.MkdirTemp(o.Dir, "pollux-bench-"); err != nil {
		return s, fail.Wrap(fail.Denied, "create directory in", o.Dir, err)
	}
	if s.tmpfs, err = os.MkdirTemp(tmpfsDir(), "pollux-bench-"); err != nil {
		return s, fail.Wrap(fail.Denied, "create directory in", tmpfsDir(), err)
	}
	s.head.Machine = machine(s.dir, o.Version)
	if s.head.Machine.Filesystem == "tmpfs" {
		s.note("the working directory is on tmpfs, where a flush costs nothing: name one on a disk with --dir")
	}
	o.Say("reading block contents")
	if s.data, err = loadCorpus(o.Data, corpusBytes); err != nil {
		return s, err
	}
	s.head.Settings = map[string]any{"size_bytes": int64(o.Size), "agent_memory_bytes": int64(o.Memory),
		"data": s.data.root}
	return s, s.openStore(ctx)
}

// tmpfsDir holds the agent's arena, as in production.
func tmpfsDir() string {
	const dir = "/dev/shm"
	if st, err := os.Stat(dir); err == nil && st.IsDir() {
		return dir
	}
	return os.TempDir()
}

// openStore decides where objects go.
func (s *session) openStore(ctx context.Context) (err error) {
	s.sopts = s.o.StoreOptions
	if s.o.Store != "" {
		s.foreign = true
		s.store = fmt.Sprintf("%s/pollux-bench-%s-%08x", strings.TrimSuffix(s.o.Store, "/"), time.Now().UTC().
			Format("20060102t150405"), rand.Uint32())
		s.head.Store = s.store
		return nil
	}
	dir := filepath.Join(s.dir, "s3")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fail.Wrap(fail.Denied, "create", dir, err)
	}
	s.server, err = s3test.StartVerbose(ctx, s3test.VersityGW, dir, s.o.Say)
	if errors.Is(err, s3test.ErrNoSource) {
		s.store = "file://" + filepath.Join(s.dir, "store")
		s.head.Store = "file:// (temporary directory)"
		s.note("no S3 server: there is no source checkout here to build one from, so the store is a local " +
			"directory; its numbers are not those of S3")
		return nil
	}
	if err != nil {
		return fail.Wrap(fail.Internal, "start", "S3 server", err)
	}
	if err := s.server.CreateBucket(ctx, bucket); err != nil {
		return fail.Wrap(fail.Internal, "create", "bucket", err)
	}
	s.sopts.Endpoint, s.sopts.CredentialsFile, s.sopts.Region = s.server.Endpoint, s.server.CredentialsFile, "us-east-1"
	s.store = "s3://" + bucket
	s.head.Store = "versitygw on loopback, on the same filesystem"
	return nil
}

// note goes into the report, and is said at once.
func (s *session) note(text string) {
	s.head.Notes = append(s.head.Notes, text)
	s.o.Say("note: " + text)
}

// prefix takes a fresh place in the store.
func (s *session) prefix(what string) string {
	s.n++
	url := fmt.Sprintf("%s/%s-%d", s.store, what, s.n)
	if path, ok := strings.CutPrefix(url, "file://"); ok {
		_ = os.MkdirAll(path, 0o700) // the store reports it if it cannot be used
	}
	s.used = append(s.used, url)
	return url
}

func (s *session) open(ctx context.Context, url string, connections int) (objstore.Store, error) {
	o := s.sopts
	o.MaxConnections = connections
	return objstore.Open(ctx, url, o)
}

// settle writes back everything dirty on the working filesystem, so that one
// slice's deferred writing does not run in the next one's time. The S3 server's
// files count too: it never syncs them.
func (s *session) settle() {
	if f, err := os.Open(s.dir); err == nil {
		_ = unix.Syncfs(int(f.Fd()))
		_ = f.Close()
	}
}

// close removes all that the session made. The parent's context may have ended.
func (s *session) close() {
	if s.foreign {
		s.empty()
	}
	if s.server != nil {
		_ = s.server.Stop()
	}
	if s.data != nil {
		s.data.close()
	}
	for _, dir := range []string{s.dir, s.tmpfs} {
		if dir == "" {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			s.note("cannot remove " + dir + ": " + err.Error())
		}
	}
}

// empty deletes our objects from a store that is not ours.
func (s *session) empty() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for _, url := range s.used {
		if err := s.emptyPrefix(ctx, url); err != nil {
			s.note("objects are left in " + url + ": " + err.Error())
		}
	}
	if path, ok := strings.CutPrefix(s.store, "file://"); ok {
		_ = os.RemoveAll(path)
	}
}

func (s *session) emptyPrefix(ctx context.Context, url string) error {
	st, err := s.open(ctx, url, 4)
	if err != nil {
		return err
	}
	defer st.Close()
	var names []string
	err = st.List(ctx, "", "", func(i objstore.Info) error {
		names = append(names, i.Name)
		return nil
	})
	for _, name := range names {
		if err == nil {
			err = st.Delete(ctx, name)
		}
	}
	return err
}

// finish completes the header.
func (s *session) finish() Header {
	s.head.Seconds = time.Since(s.head.Started).Seconds()
	return s.head
}

// try waits until ready succeeds, a child ends or the time is over.
func try(ctx context.Context, c *proc, ready func() error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-c.Done():
			return c.failure()
		case <-ctx.Done():
			return fail.Wrap(fail.Retry, "wait for", c.name, errors.Join(ctx.Err(), err))
		case <-time.After(5 * time.Millisecond):
		}
	}
}
