package systemtest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pollux-dr/pollux/internal/seed"
)

// program is the pollux under test; shm a directory on tmpfs for arenas and
// sockets.
var program, shm string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "pst-bin-")
		if err != nil {
			return complain(err)
		}
		defer os.RemoveAll(dir)
		if shm, err = os.MkdirTemp("/dev/shm", "pst-"); err != nil {
			return complain(err)
		}
		defer os.RemoveAll(shm)
		if program = os.Getenv("POLLUX_BINARY"); program == "" {
			program = filepath.Join(dir, "pollux")
			if err := build(program); err != nil {
				return complain(err)
			}
		}
		return m.Run()
	}())
}

func complain(err error) int {
	fmt.Fprintln(os.Stderr, "systemtest:", err)
	return 1
}

// build compiles without cgo, as the product is shipped, whatever the tests
// themselves were built with.
func build(path string, flags ...string) error {
	cmd := exec.Command("go", slices.Concat([]string{"build", "-o", path}, flags,
		[]string{"github.com/pollux-dr/pollux/cmd/pollux"})...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build pollux: %w\n%s", err, out)
	}
	return nil
}

// newRand returns a generator whose seed is printed.
func newRand(t *testing.T) *rand.Rand {
	t.Helper()
	return rand.New(rand.NewPCG(seed.New(t), 0))
}

// tool finds a program that the test cannot do without.
func tool(t *testing.T, name, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		for _, dir := range []string{"/usr/sbin", "/sbin"} {
			if p, e := exec.LookPath(filepath.Join(dir, name)); e == nil {
				return p
			}
		}
		t.Fatalf("%s is missing: apt-get install %s", name, debianPackage)
	}
	return path
}
