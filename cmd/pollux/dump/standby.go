package dump

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/twin/standby"
)

// standbyDump is a standby's cursor.
type standbyDump struct {
	Cursor json.RawMessage `json:"cursor,omitempty"`
	Damage *damageInfo     `json:"damage,omitempty"`
}

func newDumpStandby() *cobra.Command {
	var f cli.DaemonFlags
	c := &cobra.Command{Use: "standby DIRECTORY", Short: "Show how far a standby is",
		Args: cobra.ExactArgs(1), Long: `DIRECTORY is <state>/standby. Its cursor is shown as JSON.`}
	f.AddJSON(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		path := filepath.Join(args[0], "cursor.json")
		b, err := os.ReadFile(path)
		if err != nil {
			return fileError("read", path, err)
		}
		cursor, err := standby.DecodeCursor(path, b)
		if f.JSON {
			return errors.Join(cli.PrintJSON(c.OutOrStdout(), standbyDump{cursor, damageOf(err)}), err)
		}
		if err != nil {
			return err
		}
		var out bytes.Buffer
		if err := json.Indent(&out, cursor, "", "  "); err != nil {
			return fail.Wrap(fail.Internal, "show", path, err)
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), out.String())
		return err
	}
	return c
}
