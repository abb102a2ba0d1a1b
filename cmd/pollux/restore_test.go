package main

import (
	"bytes"
	"testing"

	"github.com/pollux-dr/pollux/replicator/logtest"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// restoreLog is a log with a volume v of group g, and the store's URL.
func restoreLog(t *testing.T) (*logtest.Log, string) {
	url := "file://" + t.TempDir()
	s, err := objstore.Open(t.Context(), url, objstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	l := logtest.New(t, s)
	l.Volume("v", 1<<20)
	l.Frame(l.Write("v", 0, bytes.Repeat([]byte{1}, 256<<10)))
	l.Segment()
	return l, url
}

func runRestore(t *testing.T, args ...string) error {
	c := newRestore()
	c.SilenceErrors, c.SilenceUsage = true, true
	c.SetArgs(args)
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&out)
	err := c.ExecuteContext(t.Context())
	t.Logf("restore %v: %v\n%s", args, err, out.String())
	return err
}

// runVerb runs a verb and returns what it prints to standard output.
func runVerb(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	root := newRoot()
	root.SetOut(&out)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}
