package systemtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/child"
)

// run executes a tool that must succeed and returns its output.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// quietly executes what is expected to fail now and then: cleaning up.
func quietly(name string, args ...string) { _ = exec.Command(name, args...).Run() }

// nbdFile shows a volume as a file, through nbdfuse: this works where the kernel
// has no NBD client.
func (s *site) nbdFile(volume string) (path string, end func()) {
	s.t.Helper()
	return nbdFuse(s.t, filepath.Join(s.dir, "nbd-"+volume), s.uri(volume))
}

// nbdFuse shows an NBD server's device as a file in a new directory.
func nbdFuse(t *testing.T, dir, uri string) (path string, end func()) {
	t.Helper()
	nbdfuse := tool(t, "nbdfuse", "libnbd-bin")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(nbdfuse, dir, uri)
	cmd.Stderr = os.Stderr
	c, err := child.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	end = func() {
		c.Kill()
		quietly("umount", "-l", dir)
		_ = os.Remove(dir) // for the next one
	}
	t.Cleanup(end)
	path = filepath.Join(dir, "nbd")
	until(t, 20*time.Second, "nbdfuse shows the volume (is fuse3 installed?)", func() error {
		_, err := os.Stat(path)
		return err
	})
	return path, end
}

// loop puts a loop device over a file.
func loop(t *testing.T, path string) (dev string, end func()) {
	t.Helper()
	dev = run(t, tool(t, "losetup", "mount"), "--find", "--show", path)
	end = func() { quietly("losetup", "-d", dev) }
	t.Cleanup(end)
	return dev, end
}

// ext4 makes a filesystem on a volume and mounts it; end takes all of it away again.
func (s *site) ext4(volume string) (dir string, end func()) {
	s.t.Helper()
	return s.mounted(volume, s.uri(volume), true)
}

// mounted mounts the filesystem of a volume that is served at uri, where format says so a new one.
func (s *site) mounted(volume, uri string, format bool) (dir string, end func()) {
	s.t.Helper()
	path, endFuse := nbdFuse(s.t, filepath.Join(s.dir, "nbd-"+volume), uri)
	dev, endLoop := loop(s.t, path)
	if format {
		run(s.t, tool(s.t, "mkfs.ext4", "e2fsprogs"), "-q", "-F", "-E", "nodiscard", dev)
	}
	dir = filepath.Join(s.dir, "mnt")
	endMount := mount(s.t, dev, dir)
	return dir, func() {
		endMount()
		endLoop()
		endFuse()
	}
}

// mount mounts a device at a new directory that other users may enter.
func mount(t *testing.T, dev, dir string) (end func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test mounts filesystems: run it as root")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "ext4", dev, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount %s: %v: %s", dev, err, out)
	}
	end = func() {
		if syscall.Unmount(dir, 0) != nil {
			_ = syscall.Unmount(dir, syscall.MNT_DETACH)
		}
	}
	t.Cleanup(end)
	return end
}
