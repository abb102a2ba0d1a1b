package config

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/quantity"
)

// Standby says what `pollux standby` follows. The agent that the host becomes passes over it.
type Standby struct {
	Target   string            `yaml:"target"`    // of journal.targets; default the only one
	Groups   []string          `yaml:"groups"`    // default all
	Delay    quantity.Duration `yaml:"delay"`     // how old what is applied must be; default 0
	Dir      string            `yaml:"dir"`       // of images; default <state>/volumes
	Backings map[string]string `yaml:"backings"`  // a volume's own file or device, by name
	CopyRate quantity.Bytes    `yaml:"copy_rate"` // of copies, per second; default no limit
	// StageBudget bounds what is read ahead of what is applied; default 1GiB.
	StageBudget quantity.Bytes `yaml:"stage_budget"`
	// Park attaches clients before the journal is here: the volumes are offered, and I/O waits.
	Park bool `yaml:"park"`
}

const (
	minCopyRate    = 64 << 10
	minStageBudget = 64 << 20
	maxDelay       = 30 * 24 * time.Hour
)

func (s *Standby) setDefaults(state string) {
	if s.Dir == "" {
		s.Dir = filepath.Join(state, "volumes")
	}
	if s.StageBudget == 0 {
		s.StageBudget = 1 << 30
	}
}

// check returns the first setting that cannot work.
func (s *Standby) check(targets []Target) (setting string, err error) {
	names := make([]string, 0, len(targets))
	for i := range targets {
		names = append(names, targets[i].Name)
	}
	switch {
	case s.Target != "" && !slices.Contains(names, s.Target):
		return "target", fmt.Errorf("%q is none of journal.targets: %s", s.Target, strings.Join(names, ", "))
	case s.Delay < 0 || time.Duration(s.Delay) > maxDelay:
		return "delay", fmt.Errorf("%v: 0 to %v", s.Delay, quantity.Duration(maxDelay))
	case !filepath.IsAbs(s.Dir):
		return "dir", fmt.Errorf("%q is not an absolute path", s.Dir)
	case s.CopyRate != 0 && s.CopyRate < minCopyRate:
		return "copy_rate", fmt.Errorf("%v is less than the minimum of %v", s.CopyRate, quantity.Bytes(minCopyRate))
	case s.StageBudget < minStageBudget:
		return "stage_budget", fmt.Errorf("%v is less than the minimum of %v", s.StageBudget,
			quantity.Bytes(minStageBudget))
	}
	for i, g := range s.Groups {
		if !siteRule.MatchString(g) || slices.Contains(s.Groups[:i], g) {
			return "groups", fmt.Errorf("%q: each is the name of a group, once", g)
		}
	}
	used := map[string]string{}
	for _, volume := range slices.Sorted(maps.Keys(s.Backings)) {
		path := filepath.Clean(s.Backings[volume])
		switch {
		case !siteRule.MatchString(volume):
			return "backings", fmt.Errorf("%q is no name of a volume", volume)
		case !filepath.IsAbs(path):
			return "backings." + volume, fmt.Errorf("%q is not an absolute path", s.Backings[volume])
		case used[path] != "":
			return "backings." + volume, fmt.Errorf("%s is that of volume %s", path, used[path])
		}
		used[path] = volume
	}
	return "", nil
}

// Followed is the target whose log a standby follows. Errors: fail.Invalid where that is not
// said.
func (c *Agent) Followed() (Target, error) {
	targets := c.Journal.Targets
	for i := range targets {
		if targets[i].Name == c.Standby.Target || c.Standby.Target == "" && len(targets) == 1 {
			return targets[i], nil
		}
	}
	err := errors.New("there is no target to follow: a standby needs journal.targets")
	if len(targets) > 1 {
		err = fmt.Errorf("there are %d targets: say by standby.target which one is followed", len(targets))
	}
	return Target{}, fail.Wrap(fail.Invalid, "follow", "agent "+c.Name, err)
}

// PathOf is where the image of a volume is.
func (s *Standby) PathOf(volume string) string {
	if path := s.Backings[volume]; path != "" {
		return path
	}
	return filepath.Join(s.Dir, volume+".img")
}

// Follows reports whether a group is wanted.
func (s *Standby) Follows(group string) bool {
	return len(s.Groups) == 0 || slices.Contains(s.Groups, group)
}
