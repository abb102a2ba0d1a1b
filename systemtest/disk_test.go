package systemtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/child"
)

// faultyDisk is an ext4 filesystem over loop, FUSE and nbdkit: nbdkit fails its
// writes when told, and stalls when it is stopped.
type faultyDisk struct {
	t       *testing.T
	dir     string // mounted here
	work    string // files and sockets
	trigger string
	kit     *child.Process
	fuse    *child.Process
	dev     string
}

const diskBytes = 384 << 20

func newFaultyDisk(t *testing.T, dir string) *faultyDisk {
	t.Helper()
	d := &faultyDisk{t: t, dir: dir}
	t.Cleanup(d.end)
	d.create()
	return d
}

// create makes a new disk, with nothing on it, and mounts it.
func (d *faultyDisk) create() {
	d.t.Helper()
	var err error
	if d.work, err = os.MkdirTemp("", "pfd-"); err != nil {
		d.t.Fatal(err)
	}
	image, socket := filepath.Join(d.work, "image"), filepath.Join(d.work, "sock")
	d.trigger = filepath.Join(d.work, "trigger")
	f, err := os.Create(image)
	if err == nil {
		err = f.Truncate(diskBytes)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		d.t.Fatal(err)
	}
	kit := exec.Command(tool(d.t, "nbdkit", "nbdkit"), "-f", "-U", socket, "--filter=error", "file", image,
		"error-pwrite=EIO", "error-pwrite-rate=100%", "error-pwrite-file="+d.trigger)
	if d.kit, err = child.Start(kit); err != nil {
		d.t.Fatal(err)
	}
	until(d.t, 20*time.Second, "nbdkit listens", func() error { _, err := os.Stat(socket); return err })
	mnt := filepath.Join(d.work, "fuse")
	if err := os.Mkdir(mnt, 0o700); err != nil {
		d.t.Fatal(err)
	}
	fuse := exec.Command(tool(d.t, "nbdfuse", "nbdfuse"), mnt, "nbd+unix:///?socket="+socket)
	if d.fuse, err = child.Start(fuse); err != nil {
		d.t.Fatal(err)
	}
	file := filepath.Join(mnt, "nbd")
	until(d.t, 20*time.Second, "nbdfuse shows the disk", func() error { _, err := os.Stat(file); return err })
	d.dev = run(d.t, tool(d.t, "losetup", "mount"), "--find", "--show", file)
	run(d.t, tool(d.t, "mkfs.ext4", "e2fsprogs"), "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", d.dev)
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		d.t.Fatal(err)
	}
	run(d.t, "mount", "-t", "ext4", d.dev, d.dir)
}

// stall makes the disk not answer, or answer again.
func (d *faultyDisk) stall(on bool) {
	sig := syscall.SIGCONT
	if on {
		sig = syscall.SIGSTOP
	}
	_ = syscall.Kill(d.kit.PID(), sig)
}

// fail makes every write fail from now on.
func (d *faultyDisk) fail() {
	if err := os.WriteFile(d.trigger, nil, 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// end takes the disk away, whatever state it is in. Nobody uses it any more.
func (d *faultyDisk) end() {
	if d.kit == nil {
		return
	}
	d.stall(false)
	if syscall.Unmount(d.dir, 0) != nil {
		_ = syscall.Unmount(d.dir, syscall.MNT_DETACH)
	}
	quietly("losetup", "-d", d.dev)
	d.fuse.End(syscall.SIGTERM, 5*time.Second)
	quietly("umount", "-l", filepath.Join(d.work, "fuse"))
	d.kit.Kill()
	_ = os.RemoveAll(d.work)
	d.kit = nil
}

// replace puts a new disk in the place of one that failed.
func (d *faultyDisk) replace() {
	d.t.Helper()
	d.end()
	d.create()
}
