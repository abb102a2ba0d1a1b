package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pollux-dr/pollux/internal/quantity"
)

// JournalHost are the settings of `pollux journal`: one member of one journal.
type JournalHost struct {
	Name      string `yaml:"name"`   // of this member, in logs; default: the host's name
	Site      string `yaml:"site"`   // where it is; default "local"
	State     string `yaml:"state"`  // default /var/lib/pollux-journal
	Socket    string `yaml:"socket"` // control; default <state>/control.sock
	Member    `yaml:",inline"`
	Identity  Identity       `yaml:"tls"`
	Control   Control        `yaml:"control"`
	LogBudget quantity.Bytes `yaml:"log_budget"` // default 8GiB
	// OptionalBacklog is as in agent.yaml; default half of log_budget.
	OptionalBacklog quantity.Bytes    `yaml:"optional_backlog"`
	Heartbeat       quantity.Duration `yaml:"heartbeat"`  // default 1m
	Election        quantity.Duration `yaml:"election"`   // how long a silent leader is waited for; default 1s
	DiskStall       quantity.Duration `yaml:"disk_stall"` // how long a leader waits for its disk; default 5s
	Catalog         Catalog           `yaml:"catalog"`    // as in agent.yaml
	Targets         []Target          `yaml:"targets"`
	Metrics         Metrics           `yaml:"metrics"`
	Log             Log               `yaml:"log"`
}

// LoadJournal reads, completes and checks a file.
func LoadJournal(path string) (*JournalHost, error) {
	b, err := read(path)
	if err != nil {
		return nil, err
	}
	c := &JournalHost{}
	return c, load(path, b, c)
}

func (c *JournalHost) setDefaults() {
	def := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	host, _ := os.Hostname()
	def(&c.Name, host)
	def(&c.Site, "local")
	def(&c.State, "/var/lib/pollux-journal")
	def(&c.Socket, filepath.Join(c.State, "control.sock"))
	def(&c.Log.Level, "info")
	def(&c.Log.Format, "text")
	if c.LogBudget == 0 {
		c.LogBudget = 8 << 30
	}
	if c.OptionalBacklog == 0 {
		c.OptionalBacklog = c.LogBudget / 2
	}
	for _, d := range []struct {
		p *quantity.Duration
		v time.Duration
	}{{&c.Heartbeat, time.Minute}, {&c.Election, time.Second}, {&c.DiskStall, 5 * time.Second}} {
		if *d.p == 0 {
			*d.p = quantity.Duration(d.v)
		}
	}
	c.Member.setDefaults()
	c.Catalog.setDefaults()
	setTargetDefaults(c.Targets)
}

func (c *JournalHost) check() (setting string, err error) {
	switch {
	case !siteRule.MatchString(c.Site):
		return "site", checkSite(c.Site)
	case !nameRule.MatchString(c.Name):
		return "name", fmt.Errorf("%q: letters, digits and _.- only, 100 at most, a letter or digit first", c.Name)
	case !filepath.IsAbs(c.State):
		return "state", fmt.Errorf("%q is not an absolute path", c.State)
	case c.Listen == "":
		return "listen", errors.New("is where agents and other members reach this one: host:port")
	case c.LogBudget < 64<<20:
		return "log_budget", fmt.Errorf("%v is less than the minimum of 64MiB", c.LogBudget)
	case checkBacklog(c.OptionalBacklog, c.LogBudget) != nil:
		return "optional_backlog", checkBacklog(c.OptionalBacklog, c.LogBudget)
	case time.Duration(c.Election) < 100*time.Millisecond || time.Duration(c.Election) > time.Minute:
		return "election", fmt.Errorf("%v: 100ms to 1m", c.Election)
	case time.Duration(c.DiskStall) < time.Second || time.Duration(c.DiskStall) > 10*time.Minute:
		return "disk_stall", fmt.Errorf("%v: 1s to 10m", c.DiskStall)
	case c.Catalog.check() != nil:
		return "catalog.every_objects", c.Catalog.check()
	case !oneOf(c.Log.Level, "debug", "info", "warn", "error"):
		return "log.level", fmt.Errorf("%q: debug, info, warn or error", c.Log.Level)
	case !oneOf(c.Log.Format, "text", "json"):
		return "log.format", fmt.Errorf("%q: text or json", c.Log.Format)
	}
	if err := c.Identity.check(); err != nil {
		return "tls", err
	}
	if err := c.Control.check(c.Identity); err != nil {
		return "control.listen", err
	}
	if setting, err := c.Member.check(c.Identity); err != nil {
		return setting, err
	}
	if setting, err := c.Metrics.check(); err != nil {
		return setting, err
	}
	return checkTargets("targets", c.Targets)
}
