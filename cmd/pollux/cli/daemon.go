package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/user"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbdclient"
	"github.com/pollux-dr/pollux/internal/pki"
	"github.com/pollux-dr/pollux/internal/quantity"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// The control sockets that verbs use where none is named: an agent's and a member's.
const (
	DefaultSocket        = "/var/lib/pollux/control.sock"
	DefaultJournalSocket = "/var/lib/pollux-journal/control.sock"
)

// DaemonFlags are those of every verb that speaks to the agent.
type DaemonFlags struct {
	Socket  string
	address string
	files   pki.Files
	JSON    bool
}

// Add adds all of them, for the agent.
func (f *DaemonFlags) Add(c *cobra.Command) { f.AddFor(c, DefaultSocket) }

// AddFor is Add for verbs that go to another daemon by default.
func (f *DaemonFlags) AddFor(c *cobra.Command, socket string) {
	if env := os.Getenv("POLLUX_SOCKET"); env != "" {
		socket = env
	}
	c.Flags().StringVar(&f.Socket, "socket", socket, "the daemon's control socket ($POLLUX_SOCKET)")
	c.Flags().StringVar(&f.address, "address", os.Getenv("POLLUX_ADDRESS"),
		"a daemon on another host, host:port, in place of the socket ($POLLUX_ADDRESS)")
	c.Flags().StringVar(&f.files.Cert, "cert", os.Getenv("POLLUX_CERT"), "certificate to show there ($POLLUX_CERT)")
	c.Flags().StringVar(&f.files.Key, "key", os.Getenv("POLLUX_KEY"), "its key file ($POLLUX_KEY)")
	c.Flags().StringVar(&f.files.CA, "ca", os.Getenv("POLLUX_CA"), "the authority's certificates ($POLLUX_CA)")
	f.AddJSON(c)
}

// AddJSON adds --json alone.
func (f *DaemonFlags) AddJSON(c *cobra.Command) {
	c.Flags().BoolVar(&f.JSON, "json", false, "print one JSON object and nothing else")
}

// Client is of the daemon that the flags name.
func (f *DaemonFlags) Client() *api.Client {
	if f.address != "" {
		return api.DialTLS(f.address, f.files)
	}
	return api.Dial(f.Socket)
}

// Call is Client().Call, once the flags are known to go together.
func (f *DaemonFlags) Call(ctx context.Context, verb string, req, resp any) error {
	if f.address != "" {
		for _, file := range []struct{ flag, path string }{{"--cert", f.files.Cert},
			{"--key", f.files.Key}, {"--ca", f.files.CA}} {
			if file.path == "" {
				return fail.New(fail.Invalid, "reach", "--address "+f.address, "no "+file.flag).
					WithHint("a daemon on another host is reached over TLS: --address needs --cert, --key and --ca")
			}
		}
		warnExposed(f.files.Key)
		if _, err := f.files.Check(); err != nil {
			return fail.At("use --cert, --key and --ca for", f.address, err)
		}
	}
	return f.Client().Call(ctx, verb, req, resp)
}

// Look makes a request as a dry run: what cannot be done is told before anybody is asked
// whether it shall be.
func Look[R any](ctx context.Context, f *DaemonFlags, verb string, r R, dry func(*R)) error {
	dry(&r)
	var ignored any
	return f.Call(ctx, verb, r, &ignored)
}

// SayDry says of what was shown that a dry run did not do it.
func SayDry(c *cobra.Command, dry bool) {
	if dry {
		fmt.Fprintln(c.OutOrStdout(), "nothing was changed")
	}
}

// warnExposed says that any user of this host can read a secret file.
func warnExposed(path string) {
	if err := config.Exposed(path); err != nil {
		fmt.Fprintln(Stderr, "pollux: warning:", fail.Explain(err))
	}
}

// StoreFlags name an object store.
type StoreFlags struct {
	URL     string
	Options objstore.Options
	Writes  bool        // the verb creates or deletes objects
	Whole   bool        // catalogs are not used
	At      PointFlag   // of verbs that read a point
	Patient atomic.Bool // what may pass is waited out for ever
	// Patience is for how long an operation is tried without progress; 0: the default.
	Patience quantity.Duration
	Cache    string // directory for what was read of logs
}

// Add adds those of every verb that opens a store.
func (f *StoreFlags) Add(c *cobra.Command) {
	c.Flags().StringVar(&f.URL, "store", "", "object store: file:///directory or s3://bucket/prefix")
	c.Flags().StringVar(&f.Options.Endpoint, "endpoint", "", "S3 endpoint, as http(s)://host:port")
	c.Flags().StringVar(&f.Options.Region, "region", "", "S3 region")
	c.Flags().StringVar(&f.Options.CredentialsFile, "credentials-file", "",
		"credentials in AWS format (default: AWS_* variables)")
	c.Flags().StringVar(&f.Options.CAFile, "ca-file", "", "PEM certificates to trust for the endpoint")
	c.Flags().Var(&f.Patience, "patience",
		"how long a request is tried again without progress (default 5m, and 10s until the store has answered once)")
}

// dialTimeout is how long an NBD server may take to negotiate.
const dialTimeout = 15 * time.Second

// DialNBD connects to an export. What is asked of it later has times of its own.
func DialNBD(ctx context.Context, uri string) (*nbdclient.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return nbdclient.Dial(ctx, uri, nil)
}

// PrintJSON prints a verb's one object.
func PrintJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// Operator is who runs the verb, for the audit.
func Operator() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprint(os.Getuid())
}

// isTerminal reports whether a file is a terminal.
func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
