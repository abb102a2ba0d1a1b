package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/user"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/pollux-dr/pollux/internal/control"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

const defaultSocket = "/var/lib/pollux/control.sock"

// daemonFlags are those of every verb that speaks to the agent.
type daemonFlags struct {
	socket string
	json   bool
}

func (f *daemonFlags) add(c *cobra.Command) {
	socket := os.Getenv("POLLUX_SOCKET")
	if socket == "" {
		socket = defaultSocket
	}
	c.Flags().StringVar(&f.socket, "socket", socket, "the agent's control socket ($POLLUX_SOCKET)")
	f.addJSON(c)
}

func (f *daemonFlags) addJSON(c *cobra.Command) {
	c.Flags().BoolVar(&f.json, "json", false, "print one JSON object and nothing else")
}

func (f *daemonFlags) client() *control.Client { return control.Dial(f.socket) }

// storeFlags name an object store.
type storeFlags struct {
	url  string
	opts objstore.Options
}

func (f *storeFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.url, "store", "", "object store: file:///directory or s3://bucket/prefix")
	c.Flags().StringVar(&f.opts.Endpoint, "endpoint", "", "S3 endpoint, as http(s)://host:port")
	c.Flags().StringVar(&f.opts.Region, "region", "", "S3 region")
	c.Flags().StringVar(&f.opts.CredentialsFile, "credentials-file", "", "credentials in AWS format (default: AWS_* variables)")
	c.Flags().StringVar(&f.opts.CAFile, "ca-file", "", "PEM certificates to trust for the endpoint")
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// table prints rows in columns.
func table(w io.Writer, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, r := range rows {
		for i, cell := range r {
			if i > 0 {
				fmt.Fprint(t, "\t")
			}
			fmt.Fprint(t, cell)
		}
		fmt.Fprintln(t)
	}
	_ = t.Flush()
}

func operator() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprint(os.Getuid())
}

func humanBytes(n int64) string {
	const step = 1024
	if n < step {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n), -1
	for v >= step && i < 5 {
		v /= step
		i++
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTPE"[i])
}

func humanDuration(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
