package journal

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/fail"
)

// member is what a directory is born with: the id under which its holder votes. It
// is never used again once the directory is gone, because what was promised under
// it is gone as well. Journal is the one that it belongs to, as soon as that is
// known: what Raft applied may be unknown after a crash until there is a leader,
// and members that do not know their journal would elect none.
type member struct {
	ID      string    `json:"id"`
	Journal uuid.UUID `json:"journal"`
}

// aloneID is the id of a journal that was born alone: its directory has had no other.
const aloneID = "embedded"

// loadMember reads the member's id, or gives it one.
func (j *Journal) loadMember(old bool) error {
	b, err := get(j.db, keyMember)
	if err != nil {
		return err
	}
	if b != nil {
		return fail.Wrap(fail.Damaged, "load", "member", json.Unmarshal(b, &j.member))
	}
	switch {
	case old || j.opts.Cluster == nil:
		j.member.ID = aloneID
	case j.wal.Last() > 0:
		return j.stateLost("it names no member, but Raft's log has entries")
	default:
		j.member.ID = uuid.NewString()
	}
	return fail.Wrap(fail.Full, "create", "member", j.db.Set(keyMember, mustJSON(j.member), pebble.Sync))
}

// pinJournal makes durable which journal this member belongs to.
func (j *Journal) pinJournal(id uuid.UUID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if id == uuid.Nil || j.member.Journal == id {
		return
	}
	j.member.Journal = id
	if err := j.db.Set(keyMember, mustJSON(j.member), pebble.Sync); err != nil && j.err == nil {
		j.err = fail.Wrap(fail.Full, "write", "member", err)
		close(j.failed)
	}
}

// journalID is the journal that this member belongs to, nil where none has let it
// in.
func (j *Journal) journalID() uuid.UUID {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.member.Journal
}

// birth says which file of which time a directory's mark is: a copy, and so a
// backup that was put back, is another one. Where the filesystem does not tell,
// it is "".
func (j *Journal) birth(path string) string {
	if j.opts.FS != vfs.Default {
		return ""
	}
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil || st.Mask&unix.STATX_BTIME == 0 {
		return ""
	}
	return fmt.Sprintf("inode %d born %d.%09d", st.Ino, st.Btime.Sec, st.Btime.Nsec)
}

// checkMember refuses a member's directory that is a copy, because others may
// count on what it promised: a backup has forgotten votes and entries, and with it
// a majority could forget what was committed. A journal that is alone may be moved.
func (j *Journal) checkMember() error {
	path := filepath.Join(j.opts.Dir, "member")
	was, err := readFile(j.opts.FS, path)
	if err != nil {
		return err
	}
	now := j.member.ID + " " + j.birth(path)
	if was != "" && was != now && j.opts.Cluster != nil {
		return fail.New(fail.Refused, "open", j.opts.Dir, fmt.Sprintf("the directory is a copy: its mark says %q, and here it is %q; other members count on what the original promised", was, now)).
			WithHint("a backup put back? " + j.instead() + ". Only if this journal has no other member, delete " + path + " instead")
	}
	return j.markMember()
}

// markMember puts a new mark in place of the one before: a backup has an older one,
// although it may be written over the very files.
func (j *Journal) markMember() error {
	path := filepath.Join(j.opts.Dir, "member")
	f, err := j.opts.FS.Create(path+atomicfile.TempSuffix, vfs.WriteCategoryUnspecified)
	if err == nil { // the mark is of the inode that the rename puts in place
		_, err = f.Write([]byte(j.member.ID + " " + j.birth(path+atomicfile.TempSuffix)))
		err = atomicfile.Finish(j.opts.FS, f, path, err)
	}
	return fail.Wrap(fail.Full, "write", path, err)
}

// readFile returns a small file's text, "" where there is none.
func readFile(fs vfs.FS, path string) (string, error) {
	f, err := fs.Open(path)
	if oserror.IsNotExist(err) {
		return "", nil
	}
	if err != nil {
		return "", fail.Wrap(fail.Denied, "open", path, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	return string(b), fail.Wrap(fail.Denied, "read", path, err)
}
