package journal

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"sort"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/fail"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	snapSuffix  = ".snap"
	keepSnaps   = 2
	snapVersion = 1
)

// snapStore keeps Raft's snapshots as <term>-<index>.snap: the state, then its
// meta as JSON, then a line with the meta's length and the CRC-32C of it all.
// Raft's own file store knows no vfs, and its durability could not be tested.
type snapStore struct {
	fs  vfs.FS
	dir string
}

type snapMeta struct {
	Version int
	Meta    raft.SnapshotMeta
	CRC     uint32
}

func (s *snapStore) path(id string) string { return filepath.Join(s.dir, id+snapSuffix) }

func (s *snapStore) Create(v raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64,
	_ raft.Transport) (raft.SnapshotSink, error) {
	id := fmt.Sprintf("%020d-%020d", term, index)
	f, err := s.fs.Create(s.path(id)+atomicfile.TempSuffix, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, fail.Wrap(fail.Full, "create snapshot", s.path(id), err)
	}
	return &snapSink{s: s, f: f, meta: raft.SnapshotMeta{Version: v, ID: id, Index: index, Term: term,
		Configuration: conf, ConfigurationIndex: confIndex}}, nil
}

type snapSink struct {
	s    *snapStore
	f    vfs.File
	meta raft.SnapshotMeta
	crc  uint32
	done bool
}

func (k *snapSink) ID() string { return k.meta.ID }

func (k *snapSink) Write(b []byte) (int, error) {
	crc := crc32.Update(k.crc, castagnoli, b) // before: a vfs file may change what it was given
	n, err := k.f.Write(b)
	if err == nil {
		k.crc = crc
		k.meta.Size += int64(n)
	}
	return n, err
}

func (k *snapSink) Cancel() error {
	if k.done {
		return nil
	}
	k.done = true
	_ = k.f.Close()
	return k.s.fs.Remove(k.s.path(k.meta.ID) + atomicfile.TempSuffix)
}

// Close makes the snapshot durable; only then may Raft drop log entries.
func (k *snapSink) Close() error {
	if k.done {
		return nil
	}
	k.done = true
	meta, err := json.Marshal(snapMeta{snapVersion, k.meta, k.crc})
	if err != nil {
		return err
	}
	tail := fmt.Sprintf("%s%012d%08x", meta, len(meta), crc32.Checksum(meta, castagnoli))
	_, err = k.f.Write([]byte(tail))
	path := k.s.path(k.meta.ID)
	err = atomicfile.Finish(k.s.fs, k.f, path, err)
	if err != nil {
		return fail.Wrap(fail.Full, "write snapshot", path, err)
	}
	return k.s.reap()
}

func (s *snapStore) ids() ([]string, error) {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return nil, fail.Wrap(fail.Denied, "list", s.dir, err)
	}
	var ids []string
	for _, n := range names {
		if id, ok := strings.CutSuffix(n, snapSuffix); ok {
			ids = append(ids, id)
		}
	}
	sort.Sort(sort.Reverse(sort.StringSlice(ids)))
	return ids, nil
}

func (s *snapStore) reap() error {
	ids, err := s.ids()
	if err != nil {
		return err
	}
	for _, id := range ids[min(len(ids), keepSnaps):] {
		if err := s.fs.Remove(s.path(id)); err != nil {
			return fail.Wrap(fail.Denied, "remove snapshot", s.path(id), err)
		}
	}
	return nil
}

func (s *snapStore) List() ([]*raft.SnapshotMeta, error) {
	ids, err := s.ids()
	if err != nil {
		return nil, err
	}
	var out []*raft.SnapshotMeta
	for _, id := range ids {
		m, _, err := s.read(id)
		if err != nil {
			return nil, err
		}
		out = append(out, &m.Meta)
	}
	return out, nil
}

// read loads and checks a snapshot; they are small by design.
func (s *snapStore) read(id string) (*snapMeta, []byte, error) {
	path := s.path(id)
	f, err := s.fs.Open(path)
	if err != nil {
		return nil, nil, fail.Wrap(fail.NotFound, "open snapshot", path, err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return nil, nil, fail.Wrap(fail.Internal, "read snapshot", path, err)
	}
	bad := func(at int, what string) error {
		return fail.New(fail.Damaged, "read snapshot", path, fmt.Sprintf("at byte %d: %s", at, what))
	}
	const tail = 20
	var n int
	var sum, crc uint32
	if len(b) < tail {
		return nil, nil, bad(len(b), "cut short")
	}
	if _, err := fmt.Sscanf(string(b[len(b)-tail:]), "%12d%8x", &n, &sum); err != nil || n < 0 || n > len(b)-tail {
		return nil, nil, bad(len(b)-tail, "no trailer")
	}
	body, meta := b[:len(b)-tail-n], b[len(b)-tail-n:len(b)-tail]
	var m snapMeta
	if crc = crc32.Checksum(meta, castagnoli); crc != sum {
		return nil, nil, bad(len(body), "meta checksum does not match")
	}
	if err := json.Unmarshal(meta, &m); err != nil {
		return nil, nil, fail.Wrap(fail.Damaged, "read snapshot", path, err)
	}
	if m.Version != snapVersion {
		return nil, nil, fail.New(fail.Unsupported, "read snapshot", path, fmt.Sprintf("version %d", m.Version))
	}
	if crc32.Checksum(body, castagnoli) != m.CRC {
		return nil, nil, bad(0, "state checksum does not match")
	}
	return &m, body, nil
}

func (s *snapStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	m, body, err := s.read(id)
	if err != nil {
		return nil, nil, err
	}
	return &m.Meta, io.NopCloser(strings.NewReader(string(body))), nil
}
