package systemtest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// usage is a wrong command line. In args, words between braces stand for paths
// that the test makes.
type usage struct {
	args  string
	kind  fail.Kind
	names string // what the error must name
	plain bool   // the line itself says what to do, without a hint
}

// verbUsages are mistakes with verbs that speak to the agent.
var verbUsages = []usage{
	{"frobnicate", fail.Invalid, "frobnicate", false},
	{"group frobnicate", fail.Invalid, "frobnicate", false},
	{"status --bogus", fail.Invalid, "--bogus", false},
	{"status extra", fail.Invalid, "extra", false},
	{"status --socket {dir}/none.sock", fail.Retry, "none.sock", false},
	{"group create", fail.Invalid, "group create", false},
	{"group create 1st", fail.Invalid, "1st", false},
	{"group create a/b", fail.Invalid, "a/b", false},
	{"group create g", fail.Exists, "g", false},
	{"group create h --rpo-target -1", fail.Invalid, "-1", false},
	{"group create h --rpo-target soon", fail.Invalid, "soon", false},
	{"group create h --ack never", fail.Invalid, "never", false},
	{"group create h --overflow spill", fail.Invalid, "spill", false},
	{"group set g", fail.Invalid, "g", false},
	{"group set nosuch --rpo-target 5", fail.NotFound, "nosuch", false},
	{"group set g --retention 5d --yes", fail.Invalid, "5d", false},
	{"group set g --retention every_write=5d,hourly=1h --yes", fail.Invalid, "further back", false},
	{"group set g --retention every_write=5d", fail.Refused, "g", false}, // no terminal to confirm at
	{"bookmark rm nosuch --group g --yes", fail.NotFound, "nosuch", false},
	{"bookmark rm taken --group g", fail.Refused, "taken", false},
	{"mount v", fail.Invalid, "--store", false},
	{"mount nosuch --store file://{empty}", fail.NotFound, "{empty}", false},
	{"verify --live nbd://x --store file://{empty}", fail.Invalid, "--live", false},
	{"verify --store file://{dir}/none", fail.NotFound, "none", false},
	{"gc --store file://{empty}", fail.NotFound, "{empty}", false},
	{"gc --store file://{dir}/none --dry-run", fail.NotFound, "none", false},
	{"gc --store file://{empty} --grace -1h", fail.Invalid, "-1h", false},
	{"cost --store file://{empty} --budget 5", fail.Invalid, "prices", false},
	{"cost --store file://{empty}", fail.NotFound, "{empty}", false},
	{"group pause nosuch", fail.NotFound, "nosuch", false},
	{"volume create x", fail.Invalid, "group", false},
	{"volume create x --group nosuch --size 1MiB", fail.NotFound, "nosuch", false},
	// what is wrong first
	{"volume create x --group nosuch --size 1GiB --backing {small}", fail.NotFound, "nosuch", false},
	{"volume create gone --group g --size 1GiB", fail.Exists, "was removed", false}, // and its backing is left
	{"volume create x --group g", fail.Invalid, "size", false},
	{"volume create x --group g --size 0", fail.Invalid, "size", false},
	{"volume create x --group g --size -5", fail.Invalid, "-5", false},
	{"volume create x --group g --size 10", fail.Invalid, "10MiB", false},
	{"volume create x --group g --size 1049000", fail.Invalid, "512", false},
	{"volume create x --group g --backing {odd}", fail.Invalid, "512", false},
	{"volume create x --group g --size 12parsecs", fail.Invalid, "12parsecs", false},
	{"volume create 9x --group g --size 1MiB", fail.Invalid, "9x", false},
	{"volume create v --group g --size 1MiB", fail.Exists, "v", false},
	{"volume create x2 --group g --backing {dir}", fail.Invalid, "{dir}", false},
	{"volume create x1 --group g --size 1GiB --backing {small}", fail.Invalid, "{small}", false},
	{"volume create x3 --group g --size 4MiB --backing {backing}", fail.Refused, "{backing}", false},
	{"volume create x4 --group g --size 1MiB --backing /dev/pollux-nosuchdev", fail.NotFound,
		"/dev/pollux-nosuchdev", false},
	{"volume create x4 --group g --size 1MiB --backing nbd://host/disk1", fail.Invalid,
		"--backing nbd://host/disk1", false},
	{"clone v x5 --group g --backing nbd://host/disk1 --store file://{empty}", fail.Invalid,
		"--backing nbd://host/disk1", false},
	{"volume rm v", fail.Refused, "v", false},
	{"volume rm nosuch --yes", fail.NotFound, "nosuch", false},
	{"bookmark add m", fail.Invalid, "group", false},
	{"bookmark add 5pm --group g", fail.Invalid, "5pm", false},
	{"bookmark add m --group nosuch", fail.NotFound, "nosuch", false},
	{"bookmark add taken --group g", fail.Exists, "taken", false},
	{"agent -c {dir}/none.yaml", fail.NotFound, "none.yaml", false},
	{"volume ls --store {dir}", fail.Invalid, "{dir}", false},
	{"volume ls --store ftp://host/dir", fail.Invalid, "ftp:", false},
	{"volume ls --store file://{dir}/none", fail.NotFound, "none", false},
	{"volume ls --store file://{empty}", fail.NotFound, "{empty}", false},
	{"volume ls --store s3://bucket/p", fail.Denied, "AWS_ACCESS_KEY_ID", false},
}

// restoreUsages come behind "restore"; {store} is a good one.
var restoreUsages = []usage{
	{"", fail.Invalid, "restore", false},
	{"v -o {new}", fail.Invalid, "--store", false},
	{"v {store}", fail.Invalid, "-o", false},
	{"nosuch {store} -o {new}", fail.NotFound, "nosuch", false},
	{"v {store} -o {new} --at 99999999", fail.NotFound, "99999999", false},
	{"v {store} -o {new} --at 99999999999999999999999", fail.NotFound, "99999999999999999999999", false},
	{"v {store} -o {new} --at 2020-13-45", fail.Invalid, "2020-13-45", false},
	{"v {store} -o {new} --at -5lightyears", fail.Invalid, "-5lightyears", false},
	{"v {store} -o {new} --at -1000h", fail.NotFound, "-1000h", false},
	{"v {store} -o {new} --at 2001-01-01T00:00:00Z", fail.NotFound, "2001-01-01", false},
	{"v {store} -o {new} --at nosuchmark", fail.NotFound, "nosuchmark", false},
	{"v {store} -o {new} --at -", fail.Invalid, "--at: \"-\"", false},
	// before the store is asked
	{"v --store file://{dir}/none -o {new} --at 2026-11-28", fail.Invalid, "2026-11-28 13:32", false},
	{"v {store} -o {dir}/missing/out", fail.NotFound, "{dir}/missing", false},
	{"v {store} -o {dir}", fail.Invalid, "{dir}", false},
	{"v {store} -o {full}", fail.Refused, "{full}", false},
	{"v {store} -o {full} --overwrite", fail.Refused, "{full}", false}, // no terminal to confirm at
	{"v {store} -o {small}", fail.Refused, "{small}", false},
	{"v {store} -o {held}", fail.Refused, "held open by process", false},
	{"v {store} -o {mounted}", fail.Refused, "mounted at", false},
	{"v {store} -o {loop}", fail.Refused, "mounted at", false},
	{"v {store} -o {loop} --overwrite --yes", fail.Refused, "mounted at", false},
	{"v {store} -o /dev/null", fail.Invalid, "/dev/null", false},
	{"v {store} -o /dev/pollux-nosuchdev", fail.NotFound, "-o /dev/pollux-nosuchdev", false},
	// before the store is asked
	{"v --store file://{dir}/none -o /dev/pollux-nosuchdev", fail.NotFound, "-o /dev/pollux-nosuchdev", false},
	{"v {store} -o nbd+unix:///disk1?socket=/none", fail.Invalid, "an NBD export", false},
	{"g {store} -o /dev", fail.NotFound, "/dev/v.img", false},
}

func TestUsageErrors(t *testing.T) {
	s, _ := newSmall(t)
	s.verb("bookmark", "add", "taken", "--group", "g")
	s.drained("g", time.Minute)
	s.verb("volume", "create", "gone", "--group", "g", "--size", "2MiB")
	s.verb("volume", "rm", "gone", "--yes")
	words := s.usageWords(t)
	check := func(t *testing.T, u usage, prefix ...string) {
		args := prefix
		for _, a := range strings.Fields(u.args) {
			if a == "{store}" {
				args = append(args, s.storeArgs()...)
				continue
			}
			args = append(args, words.Replace(a))
		}
		start := time.Now()
		o := s.pollux(args...)
		wantError(t, u.args, o, u.kind, words.Replace(u.names))
		if !u.plain {
			wantHint(t, u.args, o)
		}
		if d := time.Since(start); d > 40*time.Second {
			t.Errorf("%s: took %v", u.args, d)
		}
	}
	for _, u := range verbUsages {
		t.Run(u.args, func(t *testing.T) { check(t, u) })
	}
	for _, u := range restoreUsages {
		t.Run("restore "+u.args, func(t *testing.T) { check(t, u, "restore") })
	}
}

// TestFailedCreateLeavesNothing: a volume whose backing cannot be used must
// neither stay behind half made nor keep the agent from starting again.
func TestFailedCreateLeavesNothing(t *testing.T) {
	s, w := newSmall(t)
	o := s.pollux("volume", "create", "x", "--group", "g", "--backing", s.dir)
	if o.code == 0 {
		t.Fatal("a directory was taken for a backing")
	}
	if g := s.group("g"); g.State != "Replicating" {
		t.Errorf("group g is %s: %s", g.State, g.Reason)
	}
	s.stop()
	s.mustStart()
	w.connect()
	w.verify()
	s.verb("volume", "create", "x", "--group", "g", "--size", "1MiB")
}

// TestReadingVerbCreatesNothing: who mistypes a store's path must not find a new
// directory there.
func TestReadingVerbCreatesNothing(t *testing.T) {
	s := newSite(t, siteConf{})
	none := filepath.Join(s.dir, "none")
	o := s.pollux("volume", "ls", "--store", "file://"+none)
	wantError(t, "volume ls", o, fail.NotFound, none)
	if _, err := os.Stat(none); err == nil {
		t.Error("the directory was created")
	}
}

func wantHint(t *testing.T, what string, o outcome) {
	t.Helper()
	if !strings.Contains(o.stderr, "\n  hint: ") {
		t.Errorf("%s: no hint: %s", what, o.stderr)
	}
}

// usageWords makes the things that command lines name.
func (s *site) usageWords(t *testing.T) *strings.Replacer {
	t.Helper()
	dir := filepath.Join(s.dir, "usage")
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.MkdirAll(at("empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name string, n int64, text string) {
		if err := os.WriteFile(at(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(at(name), max(n, int64(len(text)))); err != nil {
			t.Fatal(err)
		}
	}
	write("small", 1<<20, "")
	write("odd", 1<<20+1, "")
	write("full", smallBytes, "something that somebody needs")
	write("held", smallBytes, "")
	write("fs", 16<<20, "")
	held, err := os.Open(at("held"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = held.Close() })
	run(t, tool(t, "mkfs.ext4", "e2fsprogs"), "-q", "-F", at("fs"))
	dev, _ := loop(t, at("fs"))
	mount(t, dev, at("mnt"))
	return strings.NewReplacer("{dir}", dir, "{empty}", at("empty"), "{small}", at("small"), "{odd}", at("odd"),
		"{full}", at("full"), "{held}", at("held"),
		"{new}", at("new"), "{mounted}", at("fs"), "{loop}", dev, "{backing}",
		filepath.Join(s.conf.state, "volumes", "v.img"))
}

// TestConfigurationErrors names file and line of what is wrong.
func TestConfigurationErrors(t *testing.T) {
	s := newSite(t, siteConf{})
	good, err := os.ReadFile(s.config())
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ name, old, new, line string }{
		{"unknown setting", "memory:", "memroy:", "5"},
		{"unknown unit", "memory: 32MiB", "memory: 32parsecs", "5"},
		{"too little memory", "memory: 32MiB", "memory: 1KiB", "5"},
		{"list for a scalar", "memory: 32MiB", "memory: [1, 2]", "5"},
		{"small budget", "budget: 256MiB", "budget: 5MiB", "7"},
		{"odd segment", "segment: 4MiB", "segment: 4097KiB", "8"},
		{"bad URL", "url: file://", "url: gopher://", "15"},
		{"negative rate", "rate: 0", "rate: -1", "16"},
		{"tab", "  budget:", "\tbudget:", "7"},
		{"no target", "    - name: faraway\n      url: " + s.conf.url + "\n      requests: {rate: 0}\n", "", "13"},
	} {
		t.Run(x.name, func(t *testing.T) {
			text := strings.Replace(string(good), x.old, x.new, 1)
			if text == string(good) {
				t.Fatal("nothing was changed")
			}
			if err := os.WriteFile(s.config(), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			o := s.runAgent()
			wantError(t, x.name, o, fail.Invalid, "agent.yaml")
			// goccy's own errors say [line:column], ours file:line.
			if !regexp.MustCompile(`(\[|yaml:)` + x.line + `:`).MatchString(o.stderr) {
				t.Errorf("line %s is not named: %s", x.line, o.stderr)
			}
		})
	}
}

// TestUnreachableStore is about verbs; what the agent does is TestStoreOutage.
func TestUnreachableStore(t *testing.T) {
	s := newSite(t, siteConf{})
	keys := []string{"AWS_ACCESS_KEY_ID=someone", "AWS_SECRET_ACCESS_KEY=something", "AWS_REGION=us-east-1"}
	start := time.Now()
	o := s.polluxWith(append(s.environ(), keys...), "volume", "ls", "--store", "s3://bucket/p", "--endpoint",
		"http://127.0.0.1:9")
	wantLast(t, "unreachable store", o, fail.Retry, "127.0.0.1:9")
	wantHint(t, "unreachable store", o)
	if d := time.Since(start); d > 60*time.Second {
		t.Errorf("it took %v", d)
	}
	srv := startStore(t, "versitygw")
	o = s.polluxWith(append(s.environ(), keys...), "volume", "ls", "--store", "s3://remote/p", "--endpoint",
		srv.Endpoint)
	wantLast(t, "wrong credentials", o, fail.Denied, "s3://remote/p")
	o = s.polluxWith(append(s.environ(), srv.Env()...), "volume", "ls", "--store", "s3://nosuch/p", "--endpoint",
		srv.Endpoint)
	wantLast(t, "no such bucket", o, fail.Invalid, "nosuch")
	o = s.polluxWith(append(s.environ(), srv.Env()...), "volume", "ls", "--store", "s3://remote/p", "--endpoint",
		srv.Endpoint)
	wantLast(t, "empty prefix", o, fail.NotFound, "s3://remote/p")
	o = s.polluxWith(s.environ(), "volume", "ls", "--store", "s3://remote/p", "--endpoint", srv.Endpoint,
		"--credentials-file", "/nonexistent")
	wantLast(t, "credentials file", o, fail.NotFound, "/nonexistent")
}

// wantLast is wantError for verbs that say meanwhile that they try again.
func wantLast(t *testing.T, what string, o outcome, kind fail.Kind, names ...string) {
	t.Helper()
	var kept strings.Builder
	for line := range strings.Lines(o.stderr) {
		if !strings.HasPrefix(line, "pollux: trying again") {
			kept.WriteString(line)
		}
	}
	o.stderr = kept.String()
	wantError(t, what, o, kind, names...)
}
