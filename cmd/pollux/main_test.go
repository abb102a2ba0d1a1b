package main

import (
	"runtime/debug"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestMistyped: an error names verb and mistake once, and what was meant.
func TestMistyped(t *testing.T) {
	for args, want := range map[string][2]string{
		"restroe v":                {`unknown command "restroe"`, "did you mean restore?"},
		"group crate g":            {`group: unknown command "crate"`, "did you mean create?"},
		"bookmarks ls":             {`unknown command "bookmarks"`, "did you mean bookmark?"},
		"frobnicate":               {`unknown command "frobnicate"`, "see pollux --help"},
		"volume create v --grup g": {"volume create: unknown flag: --grup", "did you mean --group?"},
		"restore v --over":         {"restore: unknown flag: --over", "did you mean --overwrite?"},
		"status -x":                {"status: unknown shorthand flag", "see pollux status --help"},
		"restore":                  {"restore: accepts 1 arg(s), received 0", "usage: pollux restore"},
		"tls issue":                {"tls issue: --role and --name are needed", ""},
		"group set g":              {"set group g: nothing to set", "see pollux group set --help"},
	} {
		_, err := runVerb(t, strings.Fields(args)...)
		if err == nil || !strings.HasPrefix(err.Error(), want[0]) || !strings.HasPrefix(fail.HintOf(err), want[1]) {
			t.Errorf("%s: %v (hint %q); want %q", args, err, fail.HintOf(err), want)
		}
	}
}

// TestHelpOfSet: a flag that is not set changes nothing, and so shows no default.
func TestHelpOfSet(t *testing.T) {
	for verb, want := range map[string]bool{"create": true, "set": false} {
		out, err := runVerb(t, "group", verb, "--help")
		if err != nil || strings.Contains(out, `(default "local")`) != want ||
			strings.Contains(out, "(default 10s)") != want {
			t.Errorf("group %s --help: %v\n%s", verb, err, out)
		}
	}
}

func TestIdentify(t *testing.T) {
	info := func(main string, settings ...debug.BuildSetting) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Version: main}, Settings: settings}
	}
	rev := debug.BuildSetting{Key: "vcs.revision", Value: "63c7f3e"}
	dirty := debug.BuildSetting{Key: "vcs.modified", Value: "true"}
	for _, x := range []struct {
		version, commit string
		info            *debug.BuildInfo
		want            [2]string
	}{
		{"", "", nil, [2]string{"devel", "unknown"}},
		{"", "", info("(devel)"), [2]string{"devel", "unknown"}},
		{"", "", info("v1.2.3"), [2]string{"v1.2.3", "unknown"}},
		{"", "", info("v0.0.0-20261128-63c7f3e", rev), [2]string{"v0.0.0-20261128-63c7f3e", "63c7f3e"}},
		{"", "", info("(devel)", rev, dirty), [2]string{"devel", "63c7f3e and changes"}},
		{"v2", "abc", info("v1.2.3", rev), [2]string{"v2", "abc"}},
	} {
		if v, c := identify(x.version, x.commit, x.info); v != x.want[0] || c != x.want[1] {
			t.Errorf("%q, %q, %v: %q, %q; want %q", x.version, x.commit, x.info, v, c, x.want)
		}
	}
}
