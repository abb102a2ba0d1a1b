package config

import (
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestStandby: what cannot work is refused with its line, and what is followed is found.
func TestStandby(t *testing.T) {
	const head = "name: a\nstate: /s\njournal:\n  targets: [{name: x, url: \"file:///x\"}, " +
		"{name: y, url: \"file:///y\"}]\n" +
		"standby:\n"
	for text, want := range map[string]string{
		"  target: z":                          "agent.yaml:6: standby.target: ",
		"  groups: [g, g]":                     "agent.yaml:6: standby.groups: ",
		"  groups: [\"-\"]":                    "agent.yaml:6: standby.groups: ",
		"  delay: 31d":                         "agent.yaml:6: standby.delay: ",
		"  target: x\n  dir: here":             "agent.yaml:7: standby.dir: ",
		"  backings: {v: dev}":                 "agent.yaml:6: standby.backings.v: ",
		"  backings: {v: /d, w: /d}":           "agent.yaml:6: standby.backings.w: /d is that of volume v",
		"  copy_rate: 1KiB":                    "agent.yaml:6: standby.copy_rate: ",
		"  stage_budget: 1MiB":                 "agent.yaml:6: standby.stage_budget: ",
		"  backing: {v: /d}":                   "agent.yaml:6: ",
		"  park: later":                        "agent.yaml:6: ",
		"  delay: 1h\n  target: y\n  other: 1": "agent.yaml:8: ",
	} {
		_, err := ParseAgent("agent.yaml", []byte(head+text+"\n"))
		if !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	c, err := ParseAgent("agent.yaml",
		[]byte(head+"  target: y\n  groups: [g]\n  backings: {v: /dev/v}\n  park: true\n"))
	if err != nil {
		t.Fatal(err)
	}
	s := &c.Standby
	if !s.Park {
		t.Error("nobody is parked")
	}
	if f, err := c.Followed(); err != nil || f.URL != "file:///y" {
		t.Errorf("it follows %+v, %v", f, err)
	}
	if s.PathOf("v") != "/dev/v" || s.PathOf("w") != "/s/volumes/w.img" || !s.Follows("g") || s.Follows("h") {
		t.Errorf("%+v", s)
	}
	c, err = ParseAgent("agent.yaml", []byte(strings.TrimSuffix(head, "standby:\n")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Followed(); !fail.Is(err, fail.Invalid) {
		t.Errorf("one of two targets: %v", err)
	}
}
