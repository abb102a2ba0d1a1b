package dump

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/twin/branch"
)

// branchDump is a file of a branch's extents.
type branchDump struct {
	branch.Head
	branch.Totals
	Ranges []branchRange `json:"ranges"`
	Damage *damageInfo   `json:"damage,omitempty"`
}

type branchRange struct {
	Offset int64 `json:"offset"`
	Bytes  int64 `json:"bytes"`
	Zeros  bool  `json:"zeros,omitempty"`
}

func newDumpBranch() *cobra.Command {
	var f cli.DaemonFlags
	c := &cobra.Command{Use: "branch FILE", Short: "Show and verify the extents that a branch has of a volume",
		Args: cobra.ExactArgs(1), Long: `FILE is one of the files with names that end in .extents, in
<state>/branches/<id>.`}
	f.AddJSON(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		in, err := os.Open(args[0])
		if err != nil {
			return fileError("read", args[0], err)
		}
		defer in.Close()
		d := branchDump{Ranges: []branchRange{}}
		d.Head, d.Totals, err = branch.Read(bufio.NewReaderSize(in, 1<<20), func(e branch.Extent) error {
			d.Ranges = append(d.Ranges, branchRange{e.Off, e.Len, e.Data == nil})
			return nil
		})
		err = fail.At("read", args[0], err)
		if d.Damage = damageOf(err); f.JSON {
			return errors.Join(cli.PrintJSON(c.OutOrStdout(), d), err)
		}
		return errors.Join(printBranch(c.OutOrStdout(), &d), err)
	}
	return c
}

func printBranch(w io.Writer, d *branchDump) error {
	if d.SizeBytes == 0 { // not even the head could be read
		return nil
	}
	_, err := fmt.Fprintf(w, "volume number %d, %d bytes, stream %s of journal %s: %d bytes in %d extents, written "+
		"under epoch %d over %v\n", d.Volume, d.SizeBytes, d.Stream, d.Journal, d.Bytes, d.Totals.Extents, d.Epoch,
		d.Base)
	for _, r := range d.Ranges {
		zeros := ""
		if r.Zeros {
			zeros = ", zeros"
		}
		if err == nil {
			_, err = fmt.Fprintf(w, "%d bytes at %d%s\n", r.Bytes, r.Offset, zeros)
		}
	}
	return err
}
