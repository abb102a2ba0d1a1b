package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestTLSNext: the command that init names is the one for the authority that it made.
func TestTLSNext(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	out, err := runVerb(t, "tls", "init", "--ca", dir)
	if want := "pollux tls issue --ca " + dir + " --role journal"; err != nil || !strings.Contains(out, want) {
		t.Errorf("%v, %s; want %s", err, out, want)
	}
}
