package s3test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// The kinds of server.
const (
	VersityGW = "versitygw"
	MinIO     = "minio"
)

// program says what a kind is built from; the version is that of tools/go.mod.
type program struct{ pkg, module, version string }

var programs = map[string]program{
	VersityGW: {"github.com/versity/versitygw/cmd/versitygw", "github.com/versity/versitygw", "v1.8.0"},
	MinIO:     {"github.com/minio/minio", "github.com/minio/minio", "v0.0.0-20260212201848-7aac2a2c5b7c"},
}

// ErrNoSource means that a server's program is not there and cannot be built,
// because neither the working directory nor one above it is a source checkout.
var ErrNoSource = errors.New("no source checkout to build the S3 server from")

// Binary returns the path of kind's program, building it first where needed,
// which takes a few minutes for MinIO and is announced through say (nil =
// silence). Processes that build at the same time wait for the first.
func Binary(ctx context.Context, kind string, say func(string)) (string, error) {
	p, ok := programs[kind]
	if !ok {
		return "", fmt.Errorf("unknown kind of S3 server %q: use %s or %s", kind, VersityGW, MinIO)
	}
	if dir := os.Getenv("POLLUX_TOOLS_DIR"); dir != "" {
		path := filepath.Join(dir, kind)
		if executable(path) {
			return path, nil
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache for %s (or set POLLUX_TOOLS_DIR): %w", kind, err)
	}
	dir := filepath.Join(cache, "pollux-tools", p.version)
	path := filepath.Join(dir, kind)
	if executable(path) {
		return path, nil
	}
	source, err := findSource()
	if err != nil {
		return "", fmt.Errorf("%s: %w: set POLLUX_TOOLS_DIR to a directory that holds it", kind, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(dir, kind+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if executable(path) { // another process was first
		return path, nil
	}
	if say != nil {
		say(fmt.Sprintf("building %s %s into %s (once)", kind, p.version, dir))
	}
	return path, build(ctx, source, p.pkg, path)
}

// build goes through a temporary name, so that nobody runs half a program.
func build(ctx context.Context, source, pkg, path string) error {
	temp := path + ".new"
	args := []string{"go", "build", "-trimpath", "-ldflags=-s -w", "-o", temp, pkg}
	if nice, err := exec.LookPath("nice"); err == nil {
		args = append([]string{nice, "-n", "10"}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = source
	// -race and the like, given for the tests, are not for their servers.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return os.Rename(temp, path)
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

// findSource walks up to the directory whose tools/go.mod is ours.
func findSource() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		tools := filepath.Join(dir, "tools")
		mod, err := os.ReadFile(filepath.Join(tools, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), "module github.com/pollux-dr/pollux/tools\n") {
			return tools, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", ErrNoSource
		}
		dir = up
	}
}

// lock holds path against other processes until the function it returns is called.
func lock(path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return func() { _ = f.Close() }, nil // which unlocks
}
