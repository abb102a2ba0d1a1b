package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/pki"
)

const defaultCADir = "/etc/pollux/ca"

func newTLS() *cobra.Command {
	c := &cobra.Command{Use: "tls", Short: "A certificate authority for those who have none: init, issue, rotate",
		Long: `Journals, agents and operators know each other by certificates that carry a role and
a name. Keep the authority's directory off the hosts that use its certificates:
whoever has ca.key can be anybody.`}
	c.AddCommand(newTLSInit(), newTLSIssue(), newTLSRotate())
	return c
}

// tlsFlags are those of every tls verb.
type tlsFlags struct {
	dir  string
	json bool
}

func (f *tlsFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.dir, "ca", defaultCADir, "the authority's directory")
	c.Flags().BoolVar(&f.json, "json", false, "print one JSON object and nothing else")
}

// told is what a tls verb did.
type told struct {
	CA    string    `json:"ca"`
	Cert  string    `json:"cert,omitempty"`
	Key   string    `json:"key,omitempty"`
	Role  string    `json:"role,omitempty"`
	Name  string    `json:"name,omitempty"`
	Until time.Time `json:"until,omitzero"`
}

func (f *tlsFlags) tell(c *cobra.Command, t told, text string) error {
	if f.json {
		return cli.PrintJSON(c.OutOrStdout(), t)
	}
	_, err := fmt.Fprintln(c.OutOrStdout(), text)
	return err
}

func newTLSInit() *cobra.Command {
	var f tlsFlags
	c := &cobra.Command{Use: "init", Short: "Make an authority", Args: cobra.NoArgs}
	f.add(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := pki.InitCA(f.dir, time.Now()); err != nil {
			return err
		}
		ca := filepath.Join(f.dir, pki.CAFile)
		which := ""
		if f.dir != defaultCADir {
			which = "--ca " + f.dir + " "
		}
		return f.tell(c, told{CA: ca},
			"authority made: "+ca+"\nnext: pollux tls issue "+which+"--role journal --name HOST")
	}
	return c
}

func newTLSIssue() *cobra.Command {
	var f tlsFlags
	var role, name, out string
	var replace bool
	c := &cobra.Command{Use: "issue --role ROLE --name NAME", Short: "Make a key and a certificate", Args: cobra.NoArgs,
		Long: `Roles: journal (a member of a journal), agent (writes the groups of the agent of that
name), operator (changes state), reader (looks at it). The certificate holds for 397
days; issue another in time with --replace, or put it over the old one: files are
read anew for each connection.`}
	f.add(c)
	c.Flags().StringVar(&role, "role", "", "journal, agent, operator or reader")
	c.Flags().StringVar(&name, "name", "", "of the host or person; an agent's is its `name` setting")
	c.Flags().StringVar(&out, "out", ".", "directory to write to")
	c.Flags().BoolVar(&replace, "replace", false, "put the new key and certificate in place of old ones")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if role == "" || name == "" {
			return fail.New(fail.Invalid, cli.VerbOf(c), "", "--role and --name are needed")
		}
		cert, until, err := pki.Issue(f.dir, out, pki.Peer{Role: pki.Role(role), Name: name}, replace, time.Now())
		if err != nil {
			return err
		}
		t := told{CA: filepath.Join(out, pki.CAFile), Cert: cert, Key: cert[:len(cert)-len(".pem")] + ".key",
			Role: role, Name: name, Until: until.UTC()}
		return f.tell(c, t, fmt.Sprintf("tls:\n  cert: %s\n  key: %s\n  ca: %s\n# holds until %s", t.Cert, t.Key, t.CA,
			until.UTC().Format(time.DateOnly)))
	}
	return c
}

func newTLSRotate() *cobra.Command {
	var f tlsFlags
	c := &cobra.Command{Use: "rotate",
		Short: "Replace the authority, step by step and without a stop", Args: cobra.NoArgs,
		Long: `Makes a new authority and keeps the old one's certificate beside it in ca.pem.
  1. pollux tls rotate
  2. copy ca.pem to every host: both authorities are trusted from then on
  3. issue new certificates and put them over the old ones, host by host
  4. when none of the old is left: delete the second certificate from ca.pem, and
     copy it to every host again`}
	f.add(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := pki.RotateCA(f.dir, time.Now()); err != nil {
			return err
		}
		ca := filepath.Join(f.dir, pki.CAFile)
		return f.tell(c, told{CA: ca}, "new authority made; "+ca+" holds the old one as well\n"+
			"next: copy it to every host, then issue new certificates")
	}
	return c
}
