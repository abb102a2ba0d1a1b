package dump

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/replicator/twin/hydrate"
)

// hydratingDump is a side file.
type hydratingDump struct {
	hydrate.Contents
	Damage *damageInfo `json:"damage,omitempty"`
}

func newDumpHydrating() *cobra.Command {
	var f cli.DaemonFlags
	c := &cobra.Command{Use: "hydrating FILE", Short: "Show which pages of a backing that is being filled are here",
		Args: cobra.ExactArgs(1),
		Long: `FILE is the side file beside a backing, with a name that ends in .hydrating, or
that of a device in the agent's state directory.`}
	f.AddJSON(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		b, err := os.ReadFile(args[0])
		if err != nil {
			return fileError("read", args[0], err)
		}
		contents, err := hydrate.Decode(b)
		if f.JSON {
			return errors.Join(cli.PrintJSON(c.OutOrStdout(), hydratingDump{contents, damageOf(err)}), err)
		}
		return errors.Join(printHydrating(c.OutOrStdout(), &contents), err)
	}
	return c
}

func printHydrating(w io.Writer, c *hydrate.Contents) error {
	if c.PageBytes == 0 { // not even the head could be read
		return nil
	}
	here := int64(0)
	for _, r := range c.Here {
		here += r.Pages
	}
	_, err := fmt.Fprintf(w,
		"%s of epoch %d, journal %s, %d bytes: %d of %d pages of %d bytes are here, in %d records\n",
		c.Point.String(), c.Epoch, c.Journal, c.SizeBytes, here, (c.SizeBytes+c.PageBytes-1)/c.PageBytes, c.PageBytes,
		c.Records)
	for _, r := range c.Here {
		if err == nil {
			_, err = fmt.Fprintf(w, "pages %d to %d\n", r.First, r.First+r.Pages-1)
		}
	}
	return err
}
