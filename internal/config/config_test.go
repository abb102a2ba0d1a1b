package config

import (
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
		*c.Journal.Targets[0].Requests.Rate != 10 || c.Journal.Targets[0].Name != "target1" || c.Socket != "/var/lib/pollux/control.sock" ||
		time.Duration(c.NBD.StallLimit) != 10*time.Minute || c.Journal.OptionalBacklog != 1<<30 {
		t.Errorf("defaults: %+v", c)
	}
}

func TestValues(t *testing.T) {
	c, err := ParseAgent("agent.yaml", []byte("name: a\nmemory: \"64MiB\"\nwal: {budget: 1GiB, linger: 5ms}\njournal:\n  heartbeat: 5m\n  targets:\n    - {url: \"s3://b/p\", requests: {rate: 0}, object_lock: {mode: compliance, for: 30d}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Memory != 64<<20 || c.WAL.Budget != 1<<30 || c.Journal.OptionalBacklog != 512<<20 || time.Duration(c.Journal.Heartbeat) != 5*time.Minute || *c.Journal.Targets[0].Requests.Rate != 0 ||
		time.Duration(c.Journal.Targets[0].ObjectLock.For) != 30*24*time.Hour {
		t.Errorf("values: %+v", c)
	}
}

// TestRefused: whatever is wrong is named, with its line.
func TestRefused(t *testing.T) {
	for _, c := range []struct{ name, yaml, want string }{
		{"unknown key", "name: a\nmemroy: 1GiB\n" + minimal, "memroy"},
		{"unit", "name: a\nmemory: 32parsecs\n" + minimal, "agent.yaml:2"},
		{"list for a size", "name: a\nmemory: [1, 2]\n" + minimal, "agent.yaml:2"},
		{"negative rate in flow style", "name: a\njournal:\n  targets:\n    - {url: \"file:///x\", requests: {rate: -1}}\n", "agent.yaml:4"},
		{"lock of a directory", "name: a\njournal:\n  targets:\n    - {url: \"file:///x\", object_lock: {mode: compliance, for: 30d}}\n", "agent.yaml:4"},
		{"lock without a mode", "name: a\njournal:\n  targets:\n    - {url: \"s3://b/x\", object_lock: {for: 30d}}\n", "agent.yaml:4"},
		{"lock for an hour", "name: a\njournal:\n  targets:\n    - url: \"s3://b/x\"\n      object_lock: {mode: governance, for: 1h}\n", "agent.yaml:5"},
		{"no target", "name: a\n", "targets"},
		{"two of one name", "name: a\njournal:\n  targets:\n    - {name: x, url: \"file:///x\"}\n    - {name: x, url: \"file:///y\"}\n", "x"},
		{"scheme", "name: a\njournal:\n  targets:\n    - {url: \"http://x\"}\n", "agent.yaml:4"},
		{"clear text", "name: a\nnbd: {tcp: \"0.0.0.0:1\"}\n" + minimal, "agent.yaml:2"},
		{"no time to stall", "name: a\nnbd: {stall_limit: 10ms}\n" + minimal, "agent.yaml:2"},
		{"all for optional targets", "name: a\njournal:\n  log_budget: 100MiB\n  optional_backlog: 76MiB\n  targets: [{url: \"file:///x\"}]\n", "agent.yaml:4"},
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

func TestBytes(t *testing.T) {
	for in, want := range map[string]Bytes{"0": 0, "4096": 4096, "64KiB": 64 << 10, "8GiB": 8 << 30, "2T": 2 << 40, "10 MiB": 10 << 20} {
		if got, err := ParseBytes(in); err != nil || got != want {
			t.Errorf("ParseBytes(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "x", "-1", "1.5GiB", "9999999999TiB"} {
		if _, err := ParseBytes(in); err == nil {
			t.Errorf("ParseBytes(%q) succeeded", in)
		}
	}
	if s := Bytes(64 << 20).String(); s != "64MiB" {
		t.Errorf("String: %s", s)
	}
}
