package hostdev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Number is a device's major:minor, "" where path is none.
func Number(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return ""
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
}

// Claimed says by what the kernel keeps a block device from anybody else, "" where it
// does not.
func Claimed(path string) string {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_EXCL, 0)
	if !errors.Is(err, unix.EBUSY) {
		if err == nil {
			_ = f.Close()
		}
		return ""
	}
	if use := UseOf(path); use != "" {
		return use
	}
	if who := HeldBy(path); who != "" {
		return "held open by " + who
	}
	return "claimed in the kernel: by a mount in another container, for example"
}

// UseOf says what uses a device, or a file by a loop device over it: a mount, swap, or
// a device on top of it.
func UseOf(path string) string {
	st, err := os.Stat(path)
	if err != nil {
		return ""
	}
	if IsBlock(st.Mode()) {
		return useOfDevice(Number(path))
	}
	real, _ := filepath.EvalSymlinks(path)
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, l := range loops {
		b, _ := os.ReadFile(l)
		if real == "" || strings.TrimSpace(string(b)) != real {
			continue
		}
		name := strings.Split(l, "/")[3]
		number, _ := os.ReadFile("/sys/block/" + name + "/dev")
		if use := useOfDevice(strings.TrimSpace(string(number))); use != "" {
			return use
		}
		return "behind /dev/" + name
	}
	return ""
}

// useOfDevice looks at a device and at its partitions.
func useOfDevice(number string) string {
	if where := mountOf(number); where != "" {
		return "mounted at " + where
	}
	dir := "/sys/dev/block/" + number
	if holders, _ := os.ReadDir(dir + "/holders"); len(holders) > 0 {
		return "below /dev/" + holders[0].Name()
	}
	swaps, _ := os.ReadFile("/proc/swaps")
	for line := range strings.Lines(string(swaps)) {
		if f := strings.Fields(line); strings.HasPrefix(f[0], "/dev/") && Number(f[0]) == number {
			return "swap space"
		}
	}
	parts, _ := filepath.Glob(dir + "/*/partition")
	for _, p := range parts {
		b, _ := os.ReadFile(filepath.Dir(p) + "/dev")
		if use := useOfDevice(strings.TrimSpace(string(b))); use != "" {
			return "its partition " + filepath.Base(filepath.Dir(p)) + " is " + use
		}
	}
	return ""
}

func mountOf(number string) string {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && f[2] == number {
			return f[4]
		}
	}
	return ""
}

// HeldBy looks for another process that has a file or device open.
func HeldBy(path string) string {
	var want unix.Stat_t
	if unix.Stat(path, &want) != nil {
		return ""
	}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		pid := strings.Split(fd, "/")[2]
		var st unix.Stat_t
		if pid == fmt.Sprint(os.Getpid()) || unix.Stat(fd, &st) != nil {
			continue
		}
		same := st.Dev == want.Dev && st.Ino == want.Ino
		if want.Mode&unix.S_IFMT == unix.S_IFBLK {
			same = st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == want.Rdev
		}
		if same {
			comm, _ := os.ReadFile("/proc/" + pid + "/comm")
			return fmt.Sprintf("process %s (%s)", pid, strings.TrimSpace(string(comm)))
		}
	}
	return ""
}
