package dump

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/journal"
)

// stateDump is the control state of a journal's member.
type stateDump struct {
	Journal   string            `json:"journal"`
	Level     int               `json:"feature_level"`
	NextIndex uint64            `json:"next_index"`
	Keys      []change.StateKey `json:"keys"`
	Streams   []streamEnd       `json:"streams"`
	Targets   map[string]uint64 `json:"targets"` // name -> objects written
}

type streamEnd struct {
	Stream string      `json:"stream"`
	LSN    uint64      `json:"lsn"`
	Hash   change.Hash `json:"hash"`
}

func newDumpState() *cobra.Command {
	var f cli.DaemonFlags
	c := &cobra.Command{Use: "state DIR", Short: "Show the control state that a member of a journal has",
		Args: cobra.ExactArgs(1),
		Long: `DIR is <state>/journal of an agent or a member that does not run. Members that
have applied the same entries have the same state, whatever their releases.`}
	f.AddJSON(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		p, err := journal.Peek(vfs.Default, args[0])
		if err != nil {
			return err
		}
		d := dumpState(p)
		if f.JSON {
			return cli.PrintJSON(c.OutOrStdout(), d)
		}
		return d.print(c.OutOrStdout())
	}
	return c
}

func dumpState(p *journal.Peeked) *stateDump {
	d := &stateDump{Journal: p.Journal.String(), Level: p.State.Level, NextIndex: p.Next, Keys: []change.StateKey{},
		Streams: []streamEnd{}, Targets: p.Positions}
	for _, key := range slices.Sorted(slices.Values(p.State.Keys())) {
		d.Keys = append(d.Keys, change.StateKey{Key: key, Value: json.RawMessage(p.State.Save(key))})
	}
	for id, at := range p.Points {
		d.Streams = append(d.Streams, streamEnd{id.String(), at.LSN, at.Hash})
	}
	slices.SortFunc(d.Streams, func(a, b streamEnd) int { return cmp.Compare(a.Stream, b.Stream) })
	return d
}

func (d *stateDump) print(w io.Writer) error {
	_, err := fmt.Fprintf(w, "journal %s, feature level %d, next index %d\n", d.Journal, d.Level, d.NextIndex)
	for _, k := range d.Keys {
		if err == nil {
			_, err = fmt.Fprintf(w, "%s %s\n", k.Key, k.Value)
		}
	}
	for _, s := range d.Streams {
		if err == nil {
			_, err = fmt.Fprintf(w, "stream %s ends at LSN %d, hash %s\n", s.Stream, s.LSN, s.Hash)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Targets)) {
		if err == nil {
			_, err = fmt.Fprintf(w, "target %s: %d objects written\n", name, d.Targets[name])
		}
	}
	return err
}
