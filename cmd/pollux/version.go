package main

import (
	"cmp"
	"runtime/debug"
)

// version and commit may be set by the build, which then need not know of git:
// -ldflags "-X main.version=v1.2.3 -X main.commit=63c7f3e".
var version, commit string

func init() {
	info, _ := debug.ReadBuildInfo()
	version, commit = identify(version, commit, info)
}

// identify says which build this is: by what the build set, else by what the go command
// noted; both know nothing where it was built with -buildvcs=false.
func identify(version, commit string, info *debug.BuildInfo) (string, string) {
	if info == nil {
		info = &debug.BuildInfo{}
	}
	noted := map[string]string{}
	for _, s := range info.Settings {
		noted[s.Key] = s.Value
	}
	if commit = cmp.Or(commit, noted["vcs.revision"]); commit == "" {
		commit = "unknown"
	} else if noted["vcs.modified"] == "true" {
		commit += " and changes"
	}
	if main := info.Main.Version; version == "" && main != "" && main != "(devel)" {
		version = main
	}
	return cmp.Or(version, "devel"), commit
}

// versionText is what --version prints.
func versionText() string {
	info, _ := debug.ReadBuildInfo()
	with := ""
	if info != nil {
		with = ", built with " + info.GoVersion
	}
	return "pollux " + version + ", commit " + commit + with + "\n"
}
