package journal

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"sync"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/fail"
)

// memberRecord is what a directory is born with: the id under which its holder votes. It
// is never used again once the directory is gone, because what was promised under
// it is gone as well. Journal is the one that it belongs to, as soon as that is
// known: what Raft applied may be unknown after a crash until there is a leader,
// and members that do not know their journal would elect none.
type memberRecord struct {
	ID      string    `json:"id"`
	Journal uuid.UUID `json:"journal"`
}

// member is who this directory is among a journal's members.
type member struct {
	opts   *Options
	db     *pebble.DB
	failed func(error)
	id     string // as long as the directory lives

	mu      sync.Mutex
	journal uuid.UUID // nil where none has let it in
}

// aloneID is the id of a journal that was born alone: its directory has had no other.
const aloneID = "embedded"

// load reads the member's id, or gives it one. named says that the directory is an old
// journal's, and logged that Raft's log has entries.
func (m *member) load(named, logged bool) error {
	b, err := get(m.db, keyMember)
	if err != nil {
		return err
	}
	var r memberRecord
	switch {
	case b != nil:
		err := json.Unmarshal(b, &r)
		m.id, m.journal = r.ID, r.Journal
		return fail.Wrap(fail.Damaged, "load", "member", err)
	case named || m.opts.Cluster == nil:
		m.id = aloneID
	case logged:
		return m.opts.stateLost("it names no member, but Raft's log has entries")
	default:
		m.id = uuid.NewString()
	}
	return m.save("create")
}

func (m *member) save(op string) error {
	b := mustJSON(memberRecord{ID: m.id, Journal: m.journal})
	return fail.Wrap(fail.Full, op, "member", m.db.Set(keyMember, b, pebble.Sync))
}

// pin makes durable which journal this member belongs to.
func (m *member) pin(journal uuid.UUID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if journal == uuid.Nil || m.journal == journal {
		return
	}
	m.journal = journal
	if err := m.save("write"); err != nil {
		m.failed(err)
	}
}

// journalID is the journal that this member belongs to, nil where none has let it
// in.
func (m *member) journalID() uuid.UUID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.journal
}

// birth says which file of which time a directory's mark is: a copy, and so a
// backup that was put back, is another one. Where the filesystem does not tell,
// it is "".
func (m *member) birth(path string) string {
	if m.opts.FS != vfs.Default {
		return ""
	}
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_BTIME, &st)
	if err != nil || st.Mask&unix.STATX_BTIME == 0 {
		return ""
	}
	return fmt.Sprintf("inode %d born %d.%09d", st.Ino, st.Btime.Sec, st.Btime.Nsec)
}

// check refuses a member's directory that is a copy, because others may
// count on what it promised: a backup has forgotten votes and entries, and with it
// a majority could forget what was committed. A journal that is alone may be moved.
func (m *member) check() error {
	path := filepath.Join(m.opts.Dir, "member")
	was, err := readFile(m.opts.FS, path)
	if err != nil {
		return err
	}
	now := m.id + " " + m.birth(path)
	if was != "" && was != now && m.opts.Cluster != nil {
		return fail.New(fail.Refused, "open", m.opts.Dir,
			fmt.Sprintf("the directory is a copy: its mark says %q, and here it is %q; "+
				"other members count on what the original promised", was, now)).
			WithHint("a backup put back? " + m.opts.instead() +
				". Only if this journal has no other member, delete " + path + " instead")
	}
	return m.renewMark()
}

// renewMark puts a new mark in place of the one before: a backup has an older one,
// although it may be written over the very files.
func (m *member) renewMark() error {
	path := filepath.Join(m.opts.Dir, "member")
	f, err := m.opts.FS.Create(path+atomicfile.TempSuffix, vfs.WriteCategoryUnspecified)
	if err == nil { // the mark is of the inode that the rename puts in place
		_, err = f.Write([]byte(m.id + " " + m.birth(path+atomicfile.TempSuffix)))
		err = atomicfile.Finish(m.opts.FS, f, path, err)
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
