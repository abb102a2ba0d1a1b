package main

import (
	"bytes"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestHelpsExitCodes holds what --help says of exit codes against the table of package
// fail: each kind's code beside words that begin with or contain the kind's name, success,
// an interruption, and no other.
func TestHelpsExitCodes(t *testing.T) {
	var help bytes.Buffer
	root := newRoot()
	root.SetArgs([]string{"--help"})
	root.SetOut(&help)
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	want := map[int]string{0: "ok", 130: "interrupted"}
	for k := fail.Internal; k == fail.Internal || k.String() != fail.Internal.String(); k++ {
		code := fail.ExitCode(fail.New(k, "", "", ""))
		if want[code] != "" {
			t.Errorf("%s and %s have the same exit code, %d", want[code], k, code)
		}
		want[code] = strings.ReplaceAll(k.String(), "-", " ")
	}
	_, text, _ := strings.Cut(help.String(), "Exit codes:\n")
	text, _, _ = strings.Cut(text, "\n\n")
	for _, m := range regexp.MustCompile(`(\d+) ([a-z]+(?: [a-z]+)*)`).FindAllStringSubmatch(text, -1) {
		code, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		if name := want[code]; name == "" || !strings.Contains(m[2], name) {
			t.Errorf("--help says %q of exit code %d, which is %q", m[2], code, name)
		}
		delete(want, code)
	}
	for _, code := range slices.Sorted(maps.Keys(want)) {
		t.Errorf("--help says nothing of exit code %d, %s", code, want[code])
	}
}
