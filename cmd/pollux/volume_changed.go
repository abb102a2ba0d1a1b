package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/quantity"
	"github.com/pollux-dr/pollux/internal/text"
)

func newVolumeChanged() *cobra.Command {
	var f cli.DaemonFlags
	var after uint64
	c := &cobra.Command{Use: "changed VOLUME", Short: "List what was written and is not in the remote store yet",
		Args: cobra.ExactArgs(1),
		Long: `Lists the extents of a volume that some remote target lacks: what would be lost
with this host. With --after, those written after that LSN, as far back as the WAL
reaches: after a failover to a recovery point, the blocks in which this side differs.`}
	f.Add(c)
	c.Flags().Uint64Var(&after, "after", 0, "LSN (default: the newest one that every remote target holds)")
	c.RunE = func(c *cobra.Command, args []string) error {
		r := api.VolumeChanged{Name: args[0]}
		if c.Flags().Changed("after") {
			r.AfterLSN = &after
		}
		var got api.VolumeChanges
		if err := f.Call(c.Context(), api.VerbVolumeChanged, r, &got); err != nil {
			return err
		}
		if f.JSON {
			return cli.PrintJSON(c.OutOrStdout(), got)
		}
		rows := [][]string{{"OFFSET", "LENGTH"}}
		for _, e := range got.Extents {
			rows = append(rows, []string{fmt.Sprint(e.Offset), fmt.Sprint(e.Length)})
		}
		if len(got.Extents) > 0 {
			text.Table(c.OutOrStdout(), rows)
		}
		_, err := fmt.Fprintf(c.OutOrStdout(),
			"volume %s: %s in %d extents (of whole %s) written after LSN %d, up to LSN %d\n",
			got.Name, quantity.Bytes(got.Bytes), len(got.Extents), quantity.Bytes(got.GranuleBytes),
			got.AfterLSN, got.LastLSN)
		return err
	}
	return c
}
