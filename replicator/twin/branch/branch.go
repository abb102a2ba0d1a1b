package branch

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/metafile"
)

// Branch is the record of one.
type Branch struct {
	Version int       `json:"version"`
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	Journal uuid.UUID `json:"journal"`
	Epoch   uint64    `json:"epoch"` // under which it was written
	Site    string    `json:"site"`  // where
	Agent   string    `json:"agent"`
	// Successor is where the journal went on.
	Successor Successor `json:"successor"`
	Streams   []Stream  `json:"streams"`
	Volumes   []Volume  `json:"volumes"`
}

// Successor is the epoch that a journal went on under.
type Successor struct {
	Epoch    uint64    `json:"epoch"`
	Site     string    `json:"site"`
	Target   string    `json:"target"`   // in whose log that was read
	Position uint64    `json:"position"` // of the fence there
	Index    uint64    `json:"index"`    // the journal index at which it went on
	Time     time.Time `json:"time"`     // of the fence
}

// Stream is where one parted from the journal's history.
type Stream struct {
	ID    change.StreamID `json:"id"`
	Group string          `json:"group"`
	Point change.Point    `json:"point"` // the branch point: the last that both have
	Base  change.Point    `json:"base"`  // the recovery point that the extents lie over
	End   change.Point    `json:"end"`   // the last that this site had
	From  time.Time       `json:"from,omitzero"`
	To    time.Time       `json:"to,omitzero"`
}

// Volume is one of which something was written.
type Volume struct {
	Name      string          `json:"name"`
	Number    uint32          `json:"number"`
	Group     string          `json:"group"`
	Stream    change.StreamID `json:"stream"`
	SizeBytes int64           `json:"size_bytes"`
	Backing   string          `json:"backing"`
	File      string          `json:"file"`
	Totals
	// Compared: the extents are what differed from the base, because it was not known what was written.
	Compared bool `json:"compared,omitempty"`
}

const recordName = "branch.json"

// Dir is where the branches of a state directory are.
func Dir(state string) string { return filepath.Join(state, "branches") }

// PathOf is where one is.
func PathOf(state, id string) string { return filepath.Join(Dir(state), id) }

// Path is that of a file of a branch.
func (b *Branch) Path(state string, v *Volume) string {
	return filepath.Join(PathOf(state, b.ID), v.File)
}

// Base is what a volume's extents lie over.
func (b *Branch) Base(v *Volume) change.Point {
	for i := range b.Streams {
		if b.Streams[i].ID == v.Stream {
			return b.Streams[i].Base
		}
	}
	return change.Point{}
}

// Volume finds one by its name; "" is the only one.
func (b *Branch) Volume(name string) (*Volume, error) {
	if name == "" && len(b.Volumes) == 1 {
		return &b.Volumes[0], nil
	}
	names := []string{}
	for i := range b.Volumes {
		if b.Volumes[i].Name == name {
			return &b.Volumes[i], nil
		}
		names = append(names, b.Volumes[i].Name)
	}
	return nil, fail.New(fail.NotFound, "find volume", name, "branch "+b.ID+" has nothing of it").
		WithHint(fmt.Sprintf("it has %v", names))
}

// WriteVolume writes a volume's file into a branch's directory, which is there; fill adds the
// extents. It is durable, and was read again from the disk, when WriteVolume returns.
func (b *Branch) WriteVolume(state string, v *Volume, fill func(*Writer) error) (err error) {
	v.File = fmt.Sprintf("volume-%d.extents", v.Number)
	path := b.Path(state, v)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fail.Wrap(fail.Denied, "create", path, err)
	}
	err = b.write(f, v, fill)
	if serr := f.Sync(); err == nil {
		err = fail.Wrap(fail.Full, "sync", path, serr)
	}
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) // so that it is read from the disk
	if cerr := f.Close(); err == nil {
		err = fail.Wrap(fail.Full, "close", path, cerr)
	}
	if err != nil {
		return err
	}
	return b.Check(state, v)
}

func (b *Branch) write(f *os.File, v *Volume, fill func(*Writer) error) error {
	buf := bufio.NewWriterSize(f, MaxExtentBytes)
	w, err := NewWriter(buf, b.head(v))
	if err == nil {
		err = fill(w)
	}
	if err == nil {
		v.Totals, err = w.Close()
	}
	if err == nil {
		err = buf.Flush()
	}
	var known *fail.Error
	if err != nil && !errors.As(err, &known) {
		err = fail.Wrap(fail.Full, "write", f.Name(), err)
	}
	return err
}

func (b *Branch) head(v *Volume) Head {
	return Head{Journal: b.Journal, Stream: v.Stream, Volume: v.Number, SizeBytes: v.SizeBytes, Epoch: b.Epoch,
		Base: b.Base(v)}
}

// Each reads a volume's extents and checks them. Errors are Read's; fail.Damaged where they are not
// those of the branch's record.
func (b *Branch) Each(state string, v *Volume, fn func(Extent) error) error {
	path := b.Path(state, v)
	f, err := os.Open(path)
	if err != nil {
		kind := fail.Denied
		if errors.Is(err, os.ErrNotExist) {
			kind = fail.Damaged
		}
		return fail.Wrap(kind, "read", path, err)
	}
	defer f.Close()
	h, t, err := Read(bufio.NewReaderSize(f, MaxExtentBytes), fn)
	if err == nil && (h != b.head(v) || t != v.Totals) {
		err = fail.New(fail.Damaged, "read", "branch", "it is not the file that the branch was saved with")
	}
	return fail.At("read", path, err)
}

// Check reads all of a volume's extents.
func (b *Branch) Check(state string, v *Volume) error {
	return b.Each(state, v, func(Extent) error { return nil })
}

// Make makes a branch's directory, and removes what a run that was cut short has left in it.
func Make(state, id string) error {
	path := PathOf(state, id)
	if _, err := os.Stat(filepath.Join(path, recordName)); err == nil {
		return fail.New(fail.Exists, "save branch in", path, "there is one")
	}
	err := os.RemoveAll(path)
	if err == nil {
		err = os.MkdirAll(path, 0o700)
	}
	if err == nil {
		err = errors.Join(atomicfile.SyncDir(vfs.Default, state), atomicfile.SyncDir(vfs.Default, Dir(state)))
	}
	return fail.Wrap(fail.Denied, "make", path, err)
}

// Save writes the record, with which the branch is there.
func (b *Branch) Save(state string) error {
	b.Version = metafile.Version
	return metafile.Save(vfs.Default, filepath.Join(PathOf(state, b.ID), recordName), b)
}

// Load reads a branch's record. Errors: fail.NotFound, fail.Damaged, fail.Unsupported.
func Load(state, id string) (*Branch, error) {
	if id == "" || id != filepath.Base(id) || id[0] == '.' {
		return nil, fail.New(fail.Invalid, "find branch", id, "it is no id of a branch")
	}
	b := &Branch{}
	found, err := metafile.Load(vfs.Default, filepath.Join(PathOf(state, id), recordName),
		"its files of extents may be whole: pollux dump branch reads each", b)
	if err == nil && !found {
		return nil, fail.New(fail.NotFound, "find branch", id, "there is none in "+Dir(state)).
			WithHint("pollux branch ls lists them")
	}
	return b, err
}

// List reads the records of all branches, oldest first. Those that cannot be read are in the error.
func List(state string) (out []*Branch, err error) {
	entries, err := os.ReadDir(Dir(state))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fail.Wrap(fail.Denied, "list", Dir(state), err)
	}
	var errs []error
	for _, e := range entries {
		b, err := Load(state, e.Name())
		switch {
		case fail.Is(err, fail.NotFound): // one that is being saved
		case err != nil:
			errs = append(errs, err)
		default:
			out = append(out, b)
		}
	}
	slices.SortFunc(out, func(a, b *Branch) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return out, errors.Join(errs...)
}

// Remove deletes a branch, and what of the former agent lies beside it. The record goes last of what
// can be read, so that a removal that was cut short can be repeated.
func Remove(state, id string) error {
	path := PathOf(state, id)
	entries, err := os.ReadDir(path)
	for _, e := range entries {
		if e.Name() != recordName && err == nil {
			err = os.RemoveAll(filepath.Join(path, e.Name()))
		}
	}
	if err == nil {
		err = os.RemoveAll(path)
	}
	if err == nil {
		err = atomicfile.SyncDir(vfs.Default, Dir(state))
	}
	return fail.Wrap(fail.Denied, "remove", path, err)
}
