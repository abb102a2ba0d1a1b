package config

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

const minimal = "journal:\n  targets:\n    - {url: \"file:///x\"}\n"

func TestDefaults(t *testing.T) {
	c, err := ParseAgent("agent.yaml", []byte("name: a\n"+minimal))
	if err != nil {
		t.Fatal(err)
	}
	if c.Memory != 128<<20 || c.WAL.Budget != 8<<30 || time.Duration(c.WAL.Linger) != 2*time.Millisecond ||
		*c.Journal.Targets[0].Requests.Rate != 10 || c.Journal.Targets[0].Name != "target1" ||
		c.Socket != "/var/lib/pollux/control.sock" ||
		time.Duration(c.NBD.StallLimit) != 10*time.Minute || c.Journal.OptionalBacklog != 1<<30 ||
		*c.Journal.Catalog.EveryObjects != 500 {
		t.Errorf("defaults: %+v", c)
	}
}

func TestValues(t *testing.T) {
	c, err := ParseAgent("agent.yaml",
		[]byte("name: a\nmemory: \"64MiB\"\nwal: {budget: 1GiB, linger: 5ms}\njournal:\n  heartbeat: 5m\n  "+
			"catalog: {every_objects: 0}\n  targets:\n    - {url: \"s3://bucket/p\", requests: {rate: 0}, "+
			"object_lock: {mode: compliance, for: 30d}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Memory != 64<<20 || c.WAL.Budget != 1<<30 || c.Journal.OptionalBacklog != 512<<20 ||
		time.Duration(c.Journal.Heartbeat) != 5*time.Minute || *c.Journal.Targets[0].Requests.Rate != 0 ||
		*c.Journal.Catalog.EveryObjects != 0 ||
		time.Duration(c.Journal.Targets[0].ObjectLock.For) != 30*24*time.Hour {
		t.Errorf("values: %+v", c)
	}
}

// TestRefused: whatever is wrong is named, with its line.
func TestRefused(t *testing.T) {
	for _, c := range []struct{ name, yaml, want string }{
		{"unknown key", "name: a\nmemroy: 1GiB\n" + minimal, "agent.yaml:2"},
		{"no port", "name: a\nmetrics:\n  listen: '127.0.0.1:'\n" + minimal,
			"agent.yaml:3: metrics.listen: \"127.0.0.1:\" is not host:port"},
		{"unit", "name: a\nmemory: 32parsecs\n" + minimal, "agent.yaml:2"},
		{"size without a unit", "name: a\nmemory: 64\n" + minimal,
			`agent.yaml:2: memory: "64" is a size without a unit: write 64MiB`},
		{"duration without a unit", "name: a\nwal: {budget: 1GiB, linger: 5}\n" + minimal,
			`agent.yaml:2: linger: "5" is a duration without a unit`},
		{"list for a size", "name: a\nmemory: [1, 2]\n" + minimal, "agent.yaml:2"},
		{"negative rate in flow style",
			"name: a\njournal:\n  targets:\n    - {url: \"file:///x\", requests: {rate: -1}}\n", "agent.yaml:4"},
		{"lock of a directory", "name: a\njournal:\n  targets:\n    - {url: \"file:///x\", object_lock: {mode: " +
			"compliance, for: 30d}}\n", "agent.yaml:4"},
		{"lock without a mode", "name: a\njournal:\n  targets:\n    - {url: \"s3://bucket/x\", object_lock: " +
			"{for: 30d}}\n", "agent.yaml:4"},
		{"lock for an hour", "name: a\njournal:\n  targets:\n    - url: \"s3://bucket/x\"\n      object_lock: " +
			"{mode: governance, for: 1h}\n", "agent.yaml:5"},
		{"no target", "name: a\n", "targets"},
		{"two of one name", "name: a\njournal:\n  targets:\n    - {name: x, url: \"file:///x\"}\n    - {name: x, " +
			"url: \"file:///y\"}\n", "x"},
		{"scheme", "name: a\njournal:\n  targets:\n    - {url: \"http://x\"}\n", "agent.yaml:4"},
		{"no bucket", "name: a\njournal:\n  targets:\n    - {url: \"s3:///x\"}\n",
			"agent.yaml:4: journal.targets[0].url: \"s3:///x\": Bucket name cannot be empty"},
		{"name of a bucket", "name: a\njournal:\n  targets:\n    - url: s3://Ab/p\n",
			"agent.yaml:4: journal.targets[0].url: \"s3://Ab/p\": Bucket name cannot be shorter"},
		{"tls of the journal alone", "name: a\njournal:\n  tls: {cert: /c, key: /k, ca: /a}\n",
			"agent.yaml:3: unknown field \"tls\""},
		{"clear text", "name: a\nnbd: {tcp: \"0.0.0.0:1\"}\n" + minimal, "agent.yaml:2"},
		{"no time to stall", "name: a\nnbd: {stall_limit: 10ms}\n" + minimal, "agent.yaml:2"},
		{"metrics in clear", "name: a\nmetrics:\n  listen: 0.0.0.0:9100\n" + minimal,
			"agent.yaml:3: metrics.listen: \"0.0.0.0:9100\" is not a loopback address, and nothing listens in " +
				"clear elsewhere: set metrics.tls"},
		{"half of TLS", "name: a\nmetrics: {tls: {cert: /c}}\n" + minimal, "agent.yaml:2: metrics.tls: cert and key"},
		{"name of a target", "name: a\njournal:\n  targets:\n    - {name: a/b, url: \"file:///x\"}\n",
			"agent.yaml:4: journal.targets[0].name: \"a/b\""},
		{"second target", "name: a\njournal:\n  targets:\n    - {url: \"file:///x\"}\n    - {url: \"ftp://x\"}\n",
			"agent.yaml:5: journal.targets[1].url"},
		{"all for optional targets", "name: a\njournal:\n  log_budget: 100MiB\n  optional_backlog: 76MiB\n  " +
			"targets: [{url: \"file:///x\"}]\n", "agent.yaml:4"},
		{"catalogs of nothing", "name: a\njournal:\n  catalog: {every_objects: 5}\n  targets: [{url: \"file:///x\"}]\n",
			"agent.yaml:3: journal.catalog.every_objects: 5: 50 to 1000000, or 0 for never"},
		{"catalogs by what", "name: a\njournal:\n  catalog: {every: 500}\n  targets: [{url: \"file:///x\"}]\n",
			"every"},
		{"small budget", "name: a\nwal: {budget: 1MiB}\n" + minimal, "agent.yaml:2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseAgent("agent.yaml", []byte(c.yaml))
			if !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v (%v), want Invalid with %q", err, fail.KindOf(err), c.want)
			}
		})
	}
}

// TestFiles: a file that a setting names and that is not there is told at once, by its
// setting.
func TestFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	for yaml, want := range map[string]string{
		"name: a\njournal:\n  targets:\n    - {url: \"s3://bucket/p\", " +
			"credentials_file: /nonexistent/cred}\n": "agent.yaml:4: journal.targets[0].credentials_file: " +
			"open /nonexistent/cred",
		"name: a\nmetrics:\n  listen: :9100\n  tls: {cert: /nonexistent/c, key: /nonexistent/k}\n" +
			minimal: "agent.yaml:4: metrics.tls.cert: open /nonexistent/c",
		"name: a\ntls:\n  cert: /nonexistent/c\n  key: /nonexistent/k\n  ca: /nonexistent/ca\n" +
			minimal: "agent.yaml:3: tls.cert",
		"name: a\nnbd: {tcp: \":10809\", tls: {cert: /nonexistent/c, key: /nonexistent/k}}\n" +
			minimal: "agent.yaml:2: nbd.tls.cert",
		"name: a\njournal:\n  targets:\n    - url: \"s3://bucket/p\"\n      ca_file: /nonexistent/ca\n      name: " +
			"remote\n": "agent.yaml:5: journal.targets[0].ca_file",
	} {
		if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadAgent(path); !fail.Is(err, fail.NotFound) || !strings.Contains(err.Error(), want) ||
			fail.HintOf(err) == "" {
			t.Errorf("%v, want NotFound with %q", err, want)
		}
	}
}

// TestListening: an address that is taken is told by its setting.
func TestListening(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := l.Addr().String()
	_, err = net.Listen("tcp", addr)
	err = fail.At("start", "agent", fail.Wrap(fail.Refused, "listen on", addr, err))
	for setting, c := range map[string]interface{ listeners() []named }{"nbd.tcp": &Agent{NBD: NBD{TCP: addr}},
		"metrics.listen": &JournalHost{Metrics: Metrics{Listen: addr}}} {
		got := Listening(c, "agent.yaml", err)
		if !fail.Is(got, fail.Refused) ||
			!strings.Contains(got.Error(), setting+" "+addr+": bind: address already in use") ||
			!strings.Contains(fail.HintOf(got), "set "+setting+" in agent.yaml") {
			t.Errorf("%v (hint %q)", got, fail.HintOf(got))
		}
	}
	if other := errors.New("other"); Listening(&Agent{}, "agent.yaml", other) != other {
		t.Error("another error was changed")
	}
}

// TestDirectoryForAFile: the path is what is wrong, not a permission.
func TestDirectoryForAFile(t *testing.T) {
	if _, err := LoadAgent(t.TempDir()); !fail.Is(err, fail.Invalid) {
		t.Errorf("%v, kind %v", err, fail.KindOf(err))
	}
}
