package systemtest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/golden"
	"github.com/pollux-dr/pollux/internal/nbdclient"
)

// eras are the directories and buckets that earlier builds have left, one archive each,
// with what they must say beside it. A change of a format adds one; none is made again.
// Era 0 is of commit 4242406, the last one before frames of version 2, era 1 of the build
// that began to keep them.
var eras = []string{"0", "1"}

// era is what an archive must say.
type era struct {
	Version string   `json:"version"` // of the build that made it
	Host    eraPlace `json:"host"`    // an agent with its embedded journal
	Away    eraPlace `json:"away"`    // an agent of a journal elsewhere, and that journal's member
}

// eraPlace is one agent's part of it.
type eraPlace struct {
	Dir     string               `json:"dir"` // where it was: the manifest has absolute paths
	Volumes map[string]eraVolume `json:"volumes"`
	Points  []eraPoint           `json:"points"`
}

// eraVolume is a volume as its clients saw it last.
type eraVolume struct {
	Group  string `json:"group"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// eraPoint is a recovery point.
type eraPoint struct {
	Volume string `json:"volume"`
	At     string `json:"at"`
	SHA256 string `json:"sha256"`
}

const eraDir = "testdata/continuation"

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// TestContinuation opens what an earlier build has left behind, killed in the middle of
// its work: an agent with its embedded journal, an agent and a journal's member, and the
// buckets of both. They are verified and restored from at several points, and both go on
// writing to the same logs.
func TestContinuation(t *testing.T) {
	for _, name := range eras {
		archive, about := filepath.Join(eraDir, name+".tar.zst"), filepath.Join(eraDir, name+".json")
		if _, err := os.Stat(archive); errors.Is(err, fs.ErrNotExist) && golden.Adding() {
			makeEra(t, archive, about)
		}
		b, err := os.ReadFile(about)
		if err != nil {
			t.Fatal(err)
		}
		var e era
		if err := json.Unmarshal(b, &e); err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			unpackEra(t, archive, dir)
			t.Run("host", func(t *testing.T) { t.Parallel(); e.Host.continueHost(t, dir) })
			t.Run("away", func(t *testing.T) { t.Parallel(); e.Away.continueAway(t, dir) })
		})
	}
}

func (p *eraPlace) continueHost(t *testing.T, dir string) {
	store := filepath.Join(dir, "host", "store")
	s := newSite(t, siteConf{url: "file://" + store, state: filepath.Join(dir, "host", "state")})
	p.readTwin(s, p.Points)
	p.move(s)
	s.mustStart()
	p.goOn(s)
	s.verb(append([]string{"gc", "--grace", "0s"}, s.storeArgs()...)...)
	s.verb(append([]string{"gc", "--grace", "0s"}, s.storeArgs()...)...)
	p.readTwin(s, p.Points[:1])
	s.stop()
}

func (p *eraPlace) continueAway(t *testing.T, dir string) {
	c := newCluster(t, 1)
	m := c.members[0]
	m.disk, c.store = filepath.Join(dir, "away", "member"), "file://"+filepath.Join(dir, "away", "store")
	s := newSite(t, siteConf{url: c.store, journal: c.addresses(), state: filepath.Join(dir, "away", "state")})
	p.readTwin(s, p.Points)
	p.move(s)
	bornAgain(t, filepath.Join(m.state(), "journal", "member"))
	m.start()
	c.voters(1)
	s.mustStart()
	p.goOn(s)
	p.readTwin(s, p.Points[:1])
	s.stop()
}

// readTwin checks the whole bucket, and restores points.
func (p *eraPlace) readTwin(s *site, points []eraPoint) {
	s.t.Helper()
	if v := s.verb(append([]string{"verify"}, s.storeArgs()...)...); len(v["damaged"].([]any)) != 0 {
		s.t.Errorf("damaged: %v", v["damaged"])
	}
	for _, x := range points {
		if got, lsn := s.restore(x.Volume, x.At); sha(got) != x.SHA256 {
			s.t.Errorf("volume %s at %q, LSN %d: another image", x.Volume, x.At, lsn)
		}
	}
}

// goOn finds the volumes as their clients saw them last, writes to them, and finds that
// in the twin.
func (p *eraPlace) goOn(s *site) {
	s.t.Helper()
	r := rand.New(rand.NewPCG(3, 4))
	groups, images := map[string]bool{}, map[string][]byte{}
	for name, v := range p.Volumes {
		conn := s.dial(name)
		img := readAll(s.t, conn)
		if int64(len(img)) != v.Bytes || sha(img) != v.SHA256 {
			s.t.Fatalf("volume %s has other bytes than its clients wrote", name)
		}
		s.drained(v.Group, time.Minute) // what the earlier build had not sent, too
		twin, _ := s.restore(name, "")
		sameBytes(s.t, "the twin of "+name, twin, img)
		poolWrites(s.t, conn, img, r, 50)
		groups[v.Group], images[name] = true, img
	}
	for group := range groups {
		s.mark(group, "continued")
	}
	for name, img := range images {
		twin, _ := s.restore(name, "continued")
		sameBytes(s.t, "the twin of "+name+" where it was gone on", twin, img)
	}
}

// poolWrites does n writes at random places, and a flush. Their blocks are of a pool:
// none of them shrinks, but an archive of all of them does.
func poolWrites(t *testing.T, c *nbdclient.Conn, img []byte, r *rand.Rand, n int) {
	t.Helper()
	pool := make([]byte, 64*4096)
	for i, noise := 0, rand.New(rand.NewPCG(1, 2)); i < len(pool); i++ {
		pool[i] = byte(noise.Uint32())
	}
	for range n {
		size := (1 + r.Int64N(8)) * 4096
		off := r.Int64N((int64(len(img))-size)/4096+1) * 4096
		from := r.Int64N((int64(len(pool))-size)/4096+1) * 4096
		if err := c.WriteAt(t.Context(), pool[from:][:size], off, 0); err != nil {
			t.Fatal(err)
		}
		copy(img[off:], pool[from:][:size])
	}
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

var (
	inodeOfFile  = regexp.MustCompile(`inode \d+ born \d+`)
	inodeOfState = regexp.MustCompile(`inode \d+ born \d+\.\d+`)
)

const markAttr = "user.pollux.backing"

// move does to an agent's directory what has to be done when it is put elsewhere: the
// manifest names the backings by their paths, and their marks name the files.
func (p *eraPlace) move(s *site) {
	s.t.Helper()
	path := filepath.Join(s.conf.state, "agent", "agent.json")
	b, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	line = bytes.ReplaceAll(line, []byte(p.Dir+"/"), []byte(s.conf.state+"/"))
	sum := crc32.Checksum(line, crc32.MakeTable(crc32.Castagnoli))
	if err := os.WriteFile(path, fmt.Appendf(nil, "%s\ncrc32c %08x\n", line, sum), 0o600); err != nil {
		s.t.Fatal(err)
	}
	for name := range p.Volumes {
		path := filepath.Join(s.conf.state, "volumes", name+".img")
		mark := make([]byte, 1024)
		n, err := unix.Getxattr(path, markAttr, mark)
		if err != nil {
			s.t.Fatalf("%s: %v", path, err)
		}
		st := statx(s.t, path)
		own := fmt.Appendf(nil, "inode %d born %d", st.Ino, st.Btime.Sec*1e9+int64(st.Btime.Nsec))
		if err := unix.Setxattr(path, markAttr, inodeOfFile.ReplaceAll(mark[:n], own), 0); err != nil {
			s.t.Fatal(err)
		}
	}
}

// bornAgain makes a member's mark that of the file that has it: the directory is no copy.
func bornAgain(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	st := statx(t, path)
	own := fmt.Appendf(nil, "inode %d born %d.%09d", st.Ino, st.Btime.Sec, st.Btime.Nsec)
	if err := os.WriteFile(path, inodeOfState.ReplaceAll(b, own), 0o600); err != nil {
		t.Fatal(err)
	}
}

func statx(t *testing.T, path string) (st unix.Statx_t) {
	t.Helper()
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// isSpare reports files whose contents mean nothing, and locks and sockets.
func isSpare(name string, mode fs.FileMode) bool {
	return !mode.IsRegular() || strings.HasPrefix(name, "spare-") && strings.HasSuffix(name, ".wal")
}
