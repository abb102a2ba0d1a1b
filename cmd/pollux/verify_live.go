package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/control/comparison"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

func verifyLive(c *cobra.Command, f *verifyFlags, store objstore.Store, name string) error {
	dev, err := cli.DialNBD(c.Context(), f.live)
	if err != nil {
		return err
	}
	defer dev.Close()
	rep, err := comparison.Run(c.Context(), comparison.Options{Store: store, Volume: name, Device: dev, URI: f.live,
		Agent: (&cli.DaemonFlags{Socket: f.socket}).Client(), Stage: cli.Stages(c.ErrOrStderr())})
	if err != nil {
		return err
	}
	if f.json {
		err = cli.PrintJSON(c.OutOrStdout(), rep)
	} else {
		w := c.OutOrStdout()
		for _, d := range rep.Differs {
			fmt.Fprintf(w, "differs: %d bytes at %d\n", d.Bytes, d.Offset)
		}
		for _, d := range rep.Open {
			fmt.Fprintf(w, "written to all the time, and so not compared: %d bytes at %d\n", d.Bytes, d.Offset)
		}
		result := "equal"
		switch {
		case len(rep.Differs) > 0:
			result = "NOT equal"
		case len(rep.Open) > 0:
			result = "equal but for what was written to all the time"
		}
		fmt.Fprintf(w, "volume %s and its twin at LSN %d are %s: %s compared in %d rounds, %s\n", name, rep.LSN, result,
			text.Bytes(rep.ComparedBytes), rep.Rounds, text.Duration(time.Duration(rep.Seconds*1e9)))
	}
	switch {
	case err != nil:
		return err
	case len(rep.Differs) > 0:
		return fail.New(fail.Damaged, "verify", "volume "+name, fmt.Sprintf("it differs from its twin in %d places, "+
			"first at byte %d", len(rep.Differs), rep.Differs[0].Offset)).
			WithHint("was the backing written to behind the agent's back? Take both copies before anything else")
	case len(rep.Open) > 0:
		return fail.New(fail.Retry, "verify", "volume "+name, "parts of it were written to all the time").
			WithHint("again when it is quieter")
	}
	return nil
}
