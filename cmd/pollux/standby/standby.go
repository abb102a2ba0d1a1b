package standby

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/host"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/text"
)

// New makes the verb.
func New(version string) *cobra.Command {
	var path string
	c := &cobra.Command{
		Use: "standby -c standby.yaml", Short: "Follow a journal's object log and keep warm images of its volumes",
		Long: `Runs in the foreground until SIGTERM or SIGINT. It reads one target of the configuration,
which is that of the agent that this host becomes when the journal is promoted here, and
keeps an image of each volume of the wanted groups, seconds behind. pollux status --socket
shows how far behind. Under systemd it notifies readiness. pollux failover --force with the
same configuration makes it the agent, and it starts as the agent from then on.`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVarP(&path, "config", "c", "/etc/pollux/standby.yaml", "configuration file")
	c.RunE = func(c *cobra.Command, _ []string) error {
		conf, err := config.LoadAgent(path)
		if err != nil {
			return err
		}
		log := cli.NewLogger(conf.Log)
		d, err := host.Start(c.Context(), conf, host.Options{Path: path, Version: version, Logger: log,
			Standby: true, Guard: func() { cli.GuardMemory(log) }})
		if err != nil {
			return config.Listening(conf, path, err)
		}
		log.Info("started", "version", version, "state", conf.State, "control", conf.Socket)
		return cli.RunDaemon(c.Context(), log, d)
	}
	return c
}

// Print shows a standby's status.
func Print(w io.Writer, st *api.StandbyStatus, now time.Time) {
	rows := [][]string{{"GROUP", "ROLE", "STATE", "LAG", "BEHIND", "VOLUMES", "REASON"}}
	for _, g := range st.Groups {
		rows = append(rows, []string{g.Name, "secondary", g.State, text.Duration(seconds(g.LagSeconds)),
			text.Bytes(g.LagBytes), fmt.Sprint(len(g.Volumes)), reasons(&g)})
	}
	text.Table(w, rows)
	fmt.Fprintln(w)
	head := []string{"VOLUME", "STATE", "POINT", "TIME", "LAG", "IMAGE"}
	if st.Parks {
		head = append(head, "PARKED")
	}
	rows = [][]string{head}
	for _, g := range st.Groups {
		for _, v := range g.Volumes {
			state, point, when := v.State, "-", "-"
			if v.Percent > 0 {
				state += fmt.Sprintf(" %.0f%%", v.Percent)
			}
			if v.LSN > 0 {
				point, when = fmt.Sprintf("LSN %d", v.LSN), v.Time.UTC().Format(time.RFC3339)
			}
			row := []string{v.Name, state, point, when, text.Duration(seconds(v.LagSeconds)), v.Path}
			if st.Parks {
				row = append(row, fmt.Sprint(v.Parked))
			}
			rows = append(rows, row)
		}
	}
	text.Table(w, rows)
	switch {
	case st.Journal == "":
		fmt.Fprintf(w, "\nthe log at %s has not been opened yet\n", st.URL)
	case st.AsOf.IsZero():
		fmt.Fprintf(w, "\njournal %s: epoch %d; the end of the log was not seen since the start\n", st.Journal,
			st.Epoch)
	default:
		fmt.Fprintf(w, "\njournal %s: epoch %d; the end of the log as of %s, %s ago\n", st.Journal, st.Epoch,
			st.AsOf.UTC().Format(time.RFC3339), text.Duration(now.Sub(st.AsOf)))
	}
	delay := ""
	if st.DelaySeconds > 0 {
		delay = ", applied when " + text.Duration(seconds(st.DelaySeconds)) + " old"
	}
	fmt.Fprintf(w, "standby %s at %s: follows target %s, %s, position %d, %s staged%s\n", st.Name, st.Site, st.Target,
		st.URL, st.Position, text.Bytes(st.StagedBytes), delay)
	if st.Error != "" {
		fmt.Fprintf(w, "it does not go on: %s\n", st.Error)
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// reasons are those of a group's volumes, each once.
func reasons(g *api.StandbyGroup) string {
	var out []string
	seen := map[string]bool{}
	for _, v := range g.Volumes {
		if v.Reason != "" && !seen[v.Reason] {
			seen[v.Reason] = true
			out = append(out, v.Name+": "+v.Reason)
		}
	}
	return strings.Join(out, "; ")
}

// unseenAfter is after how long without a look at the log's end Check warns, and stalledAfter after
// how long it calls that critical: an idle journal writes an object a minute.
const (
	unseenAfter  = 2 * time.Minute
	stalledAfter = 10 * time.Minute
)

// Check is a standby's exit status and line under pollux status --check: 1 when an image is being
// copied or is behind, or the end of the log was not seen for two minutes; 2 when one is stalled,
// or the end was not seen for ten.
func Check(st *api.StandbyStatus, now time.Time) (code int, line string) {
	lag, names := 0.0, []string{}
	for _, g := range st.Groups {
		lag, names = max(lag, g.LagSeconds), append(names, g.Name)
		s := 1
		switch g.State {
		case "following":
			s = 0
		case "stalled":
			s = 2
		}
		if s > code {
			code, line = s, fmt.Sprintf("group %s is %s, lag %.3f s: %s", g.Name, g.State, g.LagSeconds, reasons(&g))
		}
	}
	unseen := now.Sub(st.AsOf)
	switch {
	case code < 2 && unseen > stalledAfter:
		return 2, "the end of the log was not seen for ten minutes: " + st.Error
	case code < 1 && unseen > unseenAfter:
		return 1, "the end of the log was not seen for two minutes: " + st.Error
	case code == 0:
		line = fmt.Sprintf("all groups follow: %s; lag up to %.3f s, as of %s", strings.Join(names, ", "), lag,
			st.AsOf.UTC().Format(time.RFC3339))
	}
	return code, line
}
