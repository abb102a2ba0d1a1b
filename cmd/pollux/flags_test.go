package main

import (
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestFlagValues: a value that is wrong, or that could mean another one, is refused with
// the command line, before anything is reached: there is no agent and no store here. The
// error names flag and value, says what to write, and names the verb once.
func TestFlagValues(t *testing.T) {
	store := "--store file:///nonexistent/pollux-store"
	for _, x := range []struct{ args, object, says string }{
		{"volume create v --group g --size 10", "volume create --size",
			`"10" is a size without a unit: write 10MiB or 10GiB`},
		{"volume create v --group g --size 513B", "--size", "513B is less than the minimum of a volume, 256KiB"},
		{"volume create v --group g --size 1048577", "--size", "not a multiple of 512 bytes"},
		{"volume create v --group g --size 0", "--size", "less than the minimum"},
		{"volume create v --group g --size 10GB", "--size", "write GiB"},
		{"restore v -o /tmp/x --limit 50 " + store, "restore --limit", `"50" is a size without a unit: write 50MiB`},
		{"mount v --cache-size 4096 " + store, "mount --cache-size", "without a unit"},
		{"mount v --limit 1 " + store, "mount --limit", "without a unit"},
		{"clone v w --group g --backing /tmp/x --limit 7 " + store, "clone --limit", "without a unit"},
		{"bench write --size 512", "bench write --size", "without a unit"},
		{"demo --size 512", "demo --size", "without a unit"},
		{"gc --grace 24 " + store, "gc --grace", `"24" is a duration without a unit`},
		{"gc --grace -1h " + store, "gc --grace", `"-1h" is below zero`},
		{"gc --object-lock compliance=30 " + store, "--object-lock compliance=30", "of a day at least"},
		{"group wait g --timeout 5", "group wait --timeout", "without a unit"},
		{"group set g --rpo-target soon", "group set --rpo-target", `"soon" is not a duration`},
		{"group set g --rpo-target -1", "group set --rpo-target", `"-1" is`},
		{"group set g --rpo-target NaN", "group set --rpo-target", `"NaN" is not a duration`},
		{"group set g --retention every_write=24 --yes", "retention", "every_write=24"},
		{"bookmark add b --group g --hold-limit 5", "bookmark add --hold-limit", "without a unit"},
		{"restore v -o /tmp/x --at 2026-11-28 " + store, "restore --at", "write 2026-11-28 13:32"},
		{"restore v -o /tmp/x --at -10 " + store, "restore --at", "-10m"},
		{"restore v -o /tmp/x --at= " + store, "restore --at", "leave it out"},
		{"mount v --at 5pm " + store, "mount --at", `"5pm" is not a time`},
		{"clone v w --group g --backing /tmp/x --at a/b " + store, "clone --at", `"a/b" is neither`},
		{"verify v --at 2026-13-45T00:00:00Z " + store, "verify --at", "not a time"},
		{"audit ls --last x", "audit ls --last", `"x" is not a value of type int`},
		{"audit ls --last", "audit ls --last", "it needs a value"},
		{"volume ls --store s3://bucket/p --credentials-file /nonexistent/cred",
			"--credentials-file /nonexistent/cred", "no such file"},
		{"gc --store s3://bucket/p --ca-file /nonexistent/ca", "--ca-file /nonexistent/ca", "no such file"},
		{"gc --tmp /nonexistent/dir " + store, "--tmp /nonexistent/dir", "no such directory"},
		{"mount v --cache /nonexistent/dir " + store, "mount v --cache /nonexistent/dir", "no such directory"},
		{"mount v --nbd /nonexistent/dir/s " + store, "--nbd /nonexistent/dir", "no such directory"},
		{"mount v --nbd /etc/passwd " + store, "--nbd /etc/passwd", "no socket"},
		{"restore v -o /nonexistent/dir/x " + store, "-o /nonexistent/dir/x", "no directory"},
		{"clone v w --group g --backing /nonexistent/dir/x " + store, "--backing /nonexistent/dir/x", "no directory"},
	} {
		_, err := runVerb(t, strings.Fields(x.args)...)
		if k := fail.KindOf(err); k != fail.Invalid && k != fail.NotFound && k != fail.Exists ||
			!strings.Contains(err.Error(), x.object) || !strings.Contains(err.Error(), x.says) ||
			fail.HintOf(err) == "" {
			t.Errorf("%s: %v (hint %q); want %q and %q", x.args, err, fail.HintOf(err), x.object, x.says)
		}
		if err != nil && strings.HasPrefix(err.Error(), "pollux ") {
			t.Errorf("%s: %v: the program's name comes twice", x.args, err)
		}
	}
}
