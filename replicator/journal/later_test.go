package journal

import (
	"encoding/binary"
	"hash/crc32"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/state"
)

// TestLaterEntry: Raft's log holds what only a later release knows. The journal
// stops before it, and the next start stops there again: it was not taken for
// applied.
func TestLaterEntry(t *testing.T) {
	later := state.Encode(state.KindGroupPut, state.Group{Name: "g"})
	binary.LittleEndian.PutUint16(later[4:], 2)
	table := crc32.MakeTable(crc32.Castagnoli)
	binary.LittleEndian.PutUint32(later[12:],
		crc32.Update(crc32.Checksum(later[:12], table), table, later[state.EnvelopeBytes:]))
	for name, data := range map[string][]byte{
		"version": append([]byte{tagCommand}, later...),
		"kind":    append([]byte{tagCommand}, state.Encode(state.Kind(999), state.Group{Name: "g"})...),
		"tag":     {'?', 1, 2, 3},
	} {
		fs := vfs.NewMem()
		if err := fs.MkdirAll("/j", 0o700); err != nil {
			t.Fatal(err)
		}
		j, err := openTest(fs)
		if err != nil {
			t.Fatal(err)
		}
		first := j.raft.Apply(data, time.Second)
		second := j.raft.Apply(append([]byte{tagCommand}, state.Encode(state.KindGroupPut, state.Group{Name: "h"})...),
			time.Second)
		if r, err := j.wait(first); err == nil && !fail.Is(r.err, fail.Unsupported) {
			t.Errorf("%s: %v", name, r.err)
		}
		if r, err := j.wait(second); err == nil && r.err == nil {
			t.Errorf("%s: the entry behind it was applied", name)
		}
		<-j.Failed()
		if !fail.Is(j.Err(), fail.Unsupported) {
			t.Errorf("%s: the journal failed with %v", name, j.Err())
		}
		if err := j.Snapshot(); err == nil {
			t.Errorf("%s: a snapshot that would pass over it", name)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if j, err = openTest(fs); err == nil {
			<-j.Failed()
			err = j.Err()
			_ = j.Close()
		}
		if !fail.Is(err, fail.Unsupported) {
			t.Errorf("%s: the next start: %v", name, err)
		}
	}
}
