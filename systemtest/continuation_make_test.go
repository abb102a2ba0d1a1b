package systemtest

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/nbdclient"
)

// makeEra lets this build write an era, which takes some minutes.
func makeEra(t *testing.T, archive, about string) {
	var e era
	if err := os.MkdirAll(eraDir, 0o755); err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, 1)
	host, away := makeHost(t, &e.Host), makeAway(t, &e.Away, c)
	e.Version = strings.TrimSpace(host.pollux("--version").stdout)
	packEra(t, archive, map[string]string{
		"host/state": host.conf.state, "host/store": host.storeDir(),
		"away/state": away.conf.state, "away/store": strings.TrimPrefix(c.store, "file://"),
		"away/member/state": c.members[0].state(),
	})
	b, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(about, append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// maker writes to the volumes of an era and notes their points.
type maker struct {
	t     *testing.T
	s     *site
	p     *eraPlace
	r     *rand.Rand
	conns map[string]*nbdclient.Conn
	image map[string][]byte
}

func newMaker(s *site, p *eraPlace) *maker {
	p.Dir, p.Volumes = s.conf.state, map[string]eraVolume{}
	return &maker{s.t, s, p, rand.New(rand.NewPCG(5, 6)), map[string]*nbdclient.Conn{}, map[string][]byte{}}
}

func (m *maker) volume(group, name string, mib int) {
	m.s.verb("volume", "create", name, "--group", group, "--size", fmt.Sprintf("%dMiB", mib))
	m.p.Volumes[name] = eraVolume{Group: group, Bytes: int64(mib) << 20}
	m.image[name] = make([]byte, mib<<20)
	m.dial()
}

func (m *maker) dial() {
	for name := range m.image {
		m.conns[name] = m.s.dial(name)
	}
}

// write overwrites n places of a volume, and gives a piece of it back.
func (m *maker) write(name string, n int) {
	m.t.Helper()
	poolWrites(m.t, m.conns[name], m.image[name], m.r, n)
	off := m.r.Int64N(int64(len(m.image[name]))/8192) * 4096
	if err := m.conns[name].Trim(m.t.Context(), off, 16384, 0); err != nil {
		m.t.Fatal(err)
	}
	clear(m.image[name][off:][:16384])
	if err := m.conns[name].Flush(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
}

// point notes the image of all volumes of a group at a point.
func (m *maker) point(group, at string) {
	for name, v := range m.p.Volumes {
		if v.Group == group {
			m.p.Points = append(m.p.Points, eraPoint{name, at, sha(m.image[name])})
		}
	}
}

// bookmark makes a bookmark that the store has.
func (m *maker) bookmark(group, name string) {
	m.t.Helper()
	m.s.mark(group, name)
	m.point(group, name)
}

// exact notes the present LSN of a group of which nothing is folded.
func (m *maker) exact(group string) {
	m.point(group, fmt.Sprint(m.s.group(group).LastLSN))
}

// end notes how the volumes are.
func (m *maker) end() {
	for name, v := range m.p.Volumes {
		v.SHA256 = sha(m.image[name])
		m.p.Volumes[name] = v
	}
}

// makeHost makes an agent with its embedded journal: groups that fold and that do not,
// a log with folds, fences and bookmarks, and catalogs after which much was deleted.
func makeHost(t *testing.T, p *eraPlace) *site {
	s := newSite(t, siteConf{walBudget: "96MiB"})
	s.mustStart()
	m := newMaker(s, p)
	keep := []string{"--retention", "every_write=1m,hourly=1y,daily=10y"}
	s.verb(append([]string{"group", "create", "folds"}, keep...)...)
	s.verb(append([]string{"group", "create", "all", "--pitr", "every-write"}, keep...)...)
	m.volume("folds", "v", 2)
	m.volume("folds", "w", 1)
	m.volume("all", "x", 1)
	for round := range 3 {
		for _, name := range []string{"v", "w", "x"} {
			m.write(name, 8)
		}
		m.bookmark("folds", fmt.Sprint("early", round))
		m.bookmark("all", fmt.Sprint("early", round))
		s.verb(append([]string{"gc"}, s.storeArgs()...)...)
	}
	s.verb("bookmark", "rm", "early1", "--group", "all", "--yes")
	p.Points = deletePoint(p, "x", "early1")

	m.fold()
	m.bookmark("folds", "folded")
	s.agent.Kill() // a fence follows
	s.mustStart()
	m.dial()
	time.Sleep(70 * time.Second) // until the journal says that not all points are kept any more
	m.write("v", 20)
	m.bookmark("folds", "late")
	m.bookmark("all", "late")
	time.Sleep(2 * time.Second)
	for range 3 {
		s.verb(append([]string{"gc", "--grace", "0s"}, s.storeArgs()...)...)
	}
	if n := deleted(s); n < 10 {
		t.Fatalf("only %d objects were deleted", n)
	}

	s.agent.Kill()
	s.mustStart()
	m.dial()
	for range 3 {
		m.write("x", 10)
		m.exact("all")
		m.write("w", 5)
	}
	m.bookmark("folds", "last")
	s.drained("all", time.Minute)
	m.write("v", 40) // on its way
	m.end()
	s.agent.Kill()
	return s
}

// fold writes while the store is away: what comes of that is folded.
func (m *maker) fold() {
	m.t.Helper()
	store := m.s.storeDir()
	if err := errors.Join(os.Rename(store, store+".away"), os.WriteFile(store, nil, 0o600)); err != nil {
		m.t.Fatal(err)
	}
	for range 20 {
		m.write("v", 120)
	}
	m.write("w", 20)
	m.write("x", 20)
	if err := errors.Join(os.Remove(store), os.Rename(store+".away", store)); err != nil {
		m.t.Fatal(err)
	}
	m.s.drained("folds", time.Minute)
	if st := m.s.status().Targets[0]; st.FoldedFrom < 16<<20 || st.FoldedTo > st.FoldedFrom/2 {
		m.t.Fatalf("little was folded: %+v", st)
	}
}

func deletePoint(p *eraPlace, volume, at string) (out []eraPoint) {
	for _, x := range p.Points {
		if x.Volume != volume || x.At != at {
			out = append(out, x)
		}
	}
	return out
}

// deleted counts the log's first objects that are gone.
func deleted(s *site) (n int) {
	for position := range 100 {
		name := filepath.Join(s.storeDir(), fmt.Sprintf("log/%020d", position))
		if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
			n++
		}
	}
	return n
}

// makeAway makes an agent of a journal elsewhere, with a resync in the log, frames that
// the journal does not have yet, and a member that was killed.
func makeAway(t *testing.T, p *eraPlace, c *cluster) *site {
	c.form()
	s := newSite(t, siteConf{url: c.store, journal: c.addresses(), walBudget: "32MiB"})
	s.mustStart()
	m := newMaker(s, p)
	s.verb("group", "create", "g", "--overflow", "bitmap")
	m.volume("g", "v", 4)
	m.volume("g", "w", 1)
	m.write("v", 100)
	m.write("w", 30)
	m.bookmark("g", "before")

	member := c.members[0]
	member.kill()
	until(t, time.Minute, "the WAL overflows", func() error {
		m.write("v", 100)
		m.write("w", 5)
		if g := s.group("g"); g.State != "Resyncing" {
			return fmt.Errorf("%+v", g)
		}
		return nil
	})
	member.start()
	until(t, time.Minute, "the resync ends", func() error {
		m.write("v", 5)
		if g := s.group("g"); g.State != "Replicating" {
			return fmt.Errorf("%+v", g)
		}
		return nil
	})
	m.bookmark("g", "after")
	s.verb(append([]string{"gc"}, s.storeArgs()...)...)
	m.write("w", 20)
	m.bookmark("g", "last")
	member.kill()
	m.write("v", 40) // in the agent's WAL alone
	m.end()
	s.agent.Kill()
	return s
}

// packEra makes the archive of directories, by their names in it.
func packEra(t *testing.T, archive string, dirs map[string]string) {
	t.Helper()
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(256<<20))
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for name, dir := range dirs {
		if err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() && isSpare(d.Name(), d.Type()) {
				return err
			}
			rel, err := filepath.Rel(dir, file)
			if err == nil {
				err = packFile(w, path.Join(name, rel), file, d)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close(), os.WriteFile(archive, out.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %d bytes", archive, out.Len())
}

const paxMark = "SCHILY.xattr." + markAttr

func packFile(w *tar.Writer, name, file string, d fs.DirEntry) error {
	if d.IsDir() {
		return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o700})
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(len(b)), Format: tar.FormatPAX}
	mark := make([]byte, 1024)
	if n, err := unix.Getxattr(file, markAttr, mark); err == nil {
		h.PAXRecords = map[string]string{paxMark: string(mark[:n])}
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// unpackEra undoes packEra below a directory.
func unpackEra(t *testing.T, archive, dir string) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	r := tar.NewReader(z)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err == nil {
			err = unpackFile(r, h, filepath.Join(dir, filepath.FromSlash(h.Name)))
		}
		if err != nil {
			t.Fatalf("%s: %v", archive, err)
		}
	}
}

func unpackFile(r io.Reader, h *tar.Header, file string) error {
	if h.Typeflag == tar.TypeDir {
		return os.MkdirAll(file, 0o700)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	if err := unpackBytes(r, h.Size, file); err != nil {
		return err
	}
	if mark := h.PAXRecords[paxMark]; mark != "" {
		return unix.Setxattr(file, markAttr, []byte(mark), 0)
	}
	return nil
}

// unpackBytes writes a file, zeros as holes: much of a log is none but zeros.
func unpackBytes(r io.Reader, size int64, file string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = f.Truncate(size)
	b, zeros := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); at < size && err == nil; {
		n := min(size-at, int64(len(b)))
		if _, err = io.ReadFull(r, b[:n]); err == nil && !bytes.Equal(b[:n], zeros[:n]) {
			_, err = f.WriteAt(b[:n], at)
		}
		at += n
	}
	return errors.Join(err, f.Close())
}
