// Package dump is the subcommand that shows and verifies formats on disk and in a store.
package dump

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// New is the subcommand dump.
func New() *cobra.Command {
	c := &cobra.Command{Use: "dump",
		Short: "Show and verify what is on disk or in a store: " +
			"wal, state, frame, segment, log, catalog, map, pack, hydrating, standby, branch",
		Long: `Reads, checks every checksum, changes nothing. Damage is named by file or object
and offset; what can still be read is shown, and the exit status is 9.`}
	c.AddCommand(newDumpWAL(), newDumpState(), newDumpFrame(), newDumpSegment(), newDumpLog(), newDumpCatalog(),
		newDumpMap(), newDumpPack(), newDumpHydrating(), newDumpStandby(), newDumpBranch())
	return c
}

// frameInfo is a frame's header.
type frameInfo struct {
	Stream      string       `json:"stream"`
	FirstLSN    uint64       `json:"first_lsn"`
	LastLSN     uint64       `json:"last_lsn"`
	FirstTime   time.Time    `json:"first_time"`
	LastTime    time.Time    `json:"last_time"`
	Lease       change.Lease `json:"lease"`
	Prev        change.Hash  `json:"prev"`
	Hash        change.Hash  `json:"hash"`
	Codec       string       `json:"codec"`
	Marks       bool         `json:"marks"`
	Records     uint32       `json:"records"`
	Blocks      uint32       `json:"blocks"`
	Bytes       int          `json:"bytes"`
	StoredBytes uint32       `json:"stored_bytes"`
	PlainBytes  uint32       `json:"plain_bytes"`
}

func infoOf(h *change.Header, hash change.Hash) *frameInfo {
	return &frameInfo{Stream: h.Stream.String(), FirstLSN: h.FirstLSN, LastLSN: h.LastLSN,
		FirstTime: time.Unix(0, h.FirstTime).UTC(), LastTime: time.Unix(0, h.LastTime).UTC(),
		Lease: change.Lease{Epoch: h.Epoch, Number: h.Lease}, Prev: h.Prev, Hash: hash, Codec: h.Codec.String(),
		Marks: h.Flags&change.FlagMarks != 0, Records: h.Records, Blocks: h.Blocks,
		Bytes: h.FrameBytes(), StoredBytes: h.StoredBytes, PlainBytes: h.PlainBytes}
}

func (f *frameInfo) String() string {
	return fmt.Sprintf("frame of stream %s, LSN %d to %d, %d records, %d plain bytes, %s, "+
		"lease %d of epoch %d, %s, hash %s after %s", f.Stream, f.FirstLSN, f.LastLSN, f.Records, f.PlainBytes, f.Codec,
		f.Lease.Number, f.Lease.Epoch, f.LastTime.Format(time.RFC3339Nano), f.Hash, f.Prev)
}

// damageInfo is an error as --json shows it.
type damageInfo struct {
	Kind string `json:"kind"`
	Text string `json:"text"`
}

func damageOf(err error) *damageInfo {
	if err == nil {
		return nil
	}
	return &damageInfo{fail.KindOf(err).String(), err.Error()}
}
