package image

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/hostdev"
	"github.com/pollux-dr/pollux/internal/provenance"
	"github.com/pollux-dr/pollux/internal/quantity"
)

// Target is the file or device that an image is written to.
type Target struct {
	Path       string
	Size       int64    // of the volume
	What       string   // was there before, for people: "new file", "10GiB block device with an ext4 filesystem"
	Objections []string // why it should not be overwritten

	have   int64 // of what is there
	exists bool
	reuse  bool        // what is there is an image to go on from
	hash   change.Hash // of the frame at the High of the base that there is
	device bool
	// resumable is that an objection is an interrupted restore of the volume.
	resumable bool
	live      *liveUse // why it must not be overwritten, whoever insists
	file      *os.File
}

// liveUse is a use of a target that nobody can overrule, and how it ends.
type liveUse struct{ text, hint string }

// Absent is a target that is not there yet.
func Absent(path string, size int64) *Target {
	return &Target{Path: path, Size: size, What: "new file"}
}

// Exists reports whether there is something at the path.
func (t *Target) Exists() bool { return t.exists }

// Device reports whether a block device is there.
func (t *Target) Device() bool { return t.device }

// Inspect looks at path without changing anything. A target that can never
// take the volume is an error; one that would lose something has objections.
func Inspect(path string, size int64) (*Target, error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // what a link leads to is meant, not the link
	}
	if err := hostdev.CheckImage("restore to", path, path); err != nil {
		return nil, err
	}
	t := Absent(path, size)
	st, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return nil, fail.Wrap(fail.Denied, "look at", path, err)
	}
	if st.IsDir() {
		return nil, fail.New(fail.Invalid, "restore to", path,
			"a directory, which takes a group, and this is a volume").
			WithHint("name a file in it, such as " + filepath.Join(path, "volume.img"))
	}
	t.exists, t.device = true, hostdev.IsBlock(st.Mode())
	return t, t.examine()
}

func (t *Target) examine() error {
	f, err := os.Open(t.Path)
	if err != nil {
		return fail.Wrap(fail.Denied, "look at", t.Path, err)
	}
	defer f.Close()
	t.have, err = f.Seek(0, io.SeekEnd)
	have := t.have
	if err != nil {
		return fail.Wrap(fail.Internal, "measure", t.Path, err)
	}
	kind := "regular file"
	if t.device {
		kind = "block device"
	}
	content, doubt := look(f, have)
	t.What = fmt.Sprintf("%s %s with %s", quantity.Bytes(have), kind, content)
	object := func(format string, args ...any) { t.Objections = append(t.Objections, fmt.Sprintf(format, args...)) }
	if t.device && have < t.Size {
		return fail.New(fail.Refused, "restore to", t.Path,
			fmt.Sprintf("the device has %d bytes, the volume %d", have, t.Size)).
			WithHint("name a device that is large enough, and is attached: lsblk shows the sizes")
	}
	if !t.device && have > 0 && have < t.Size {
		object("it is too small (%d bytes; the volume has %d)", have, t.Size)
	}
	switch {
	case doubt != nil:
		object("whether it is empty is not known: %v", doubt)
	case content != zeros:
		object("it is not empty: %s", t.What)
	}
	if t.device {
		if use := hostdev.Claimed(t.Path); use != "" { // the kernel lets nobody else write
			t.live = &liveUse{"the device is in use: " + use,
				"end that use of it (umount, swapoff, vgchange -an, stop the agent that serves it), or name " +
					"another device"}
		}
	} else if use := hostdev.UseOf(t.Path); use != "" {
		object("it is in use: %s", use)
	}
	whose, who := provenance.BackingOf(t.Path), hostdev.HeldBy(t.Path)
	if whose != "" && who != "" {
		t.live = &liveUse{fmt.Sprintf("it is the backing of a protected volume (%s), and in use by %s", whose, who),
			"to set that volume back in place, restore onto a device of it (README, \"Going back\"); or restore to " +
				"another path; or end its protection first (pollux volume rm keeps its history)"}
	}
	if whose != "" {
		object("it bears the mark of a protected volume's backing (%s): end the protection first, or its twin no "+
			"longer equals it", whose)
	}
	if who != "" {
		object("it is held open by %s", who)
	}
	return nil
}

// Refused is the error of a target that must not be written to, nil where it may be: with
// overwrite, in spite of its objections.
func (t *Target) Refused(overwrite bool) error {
	if t.live != nil {
		return fail.New(fail.Refused, "restore to", t.Path, t.live.text).WithHint(t.live.hint)
	}
	if overwrite || len(t.Objections) == 0 {
		return nil
	}
	hint := "choose another target, or add --overwrite to lose what is there"
	if t.resumable {
		hint += ", with --resume to go on from it"
	}
	return fail.New(fail.Refused, "restore to", t.Path, strings.Join(t.Objections, "; ")).WithHint(hint)
}
