package state

import (
	"fmt"

	"github.com/pollux-dr/pollux/internal/fail"
)

// A journal's feature level says which commands its log may hold. Members of two releases
// apply the same log, and one that does not know a command has to stop; so a release that
// has new ones writes none of them until all members know them. The leader asks each, and
// then raises the level by a command. From there on the log is for releases that know the
// level, and a member of an earlier one is not let in any more.

// Level is the highest feature level that this release knows:
//
//	0  all commands up to stream-horizon
//	1  group-patch, site, seat and stream-move; feature-level itself needs none
//	2  seat-move
//	3  hand-over
//	4  way-back
const Level = 4

// FeatureLevel raises the feature level of a journal, one by one.
type FeatureLevel struct {
	Level int `json:"level"`
}

func (r *FeatureLevel) check() error {
	if r.Level < 1 {
		return invalid("feature level %d", r.Level)
	}
	return knownLevel(r.Level)
}

func (s *State) raiseLevel(r *FeatureLevel) (string, error) {
	if err := knownLevel(r.Level); err != nil { // one that a later release proposed ends the journal here
		return "", err
	}
	if r.Level != s.Level+1 {
		return "", fail.New(fail.Refused, "raise", "feature level", fmt.Sprintf("from %d to %d", s.Level, r.Level))
	}
	s.Level = r.Level
	return keyLevel, nil
}

// knownLevel refuses a level of a later release.
func knownLevel(level int) error {
	if level <= Level {
		return nil
	}
	return fail.New(fail.Unsupported, "use", "journal",
		fmt.Sprintf("its feature level is %d; this release knows %d", level, Level)).
		WithHint("use a pollux version that knows it")
}

// LevelOf is the feature level from which on a journal takes a kind of command.
func LevelOf(kind Kind) int { return levels[kind] }

// levels are those of kinds above 0. What raises the level cannot need one.
var levels = map[Kind]int{KindGroupPatch: 1, KindSite: 1, KindSeat: 1, KindStreamMove: 1,
	KindSeatMove: 2, KindHandOver: 3, KindWayBack: 4}

// CheckLevel refuses a command that not all members of a journal know yet, which has a
// feature level.
func CheckLevel(kind Kind, has int) error {
	level := LevelOf(kind)
	if level <= has {
		return nil
	}
	return fail.New(fail.Refused, "apply", kind.String(),
		fmt.Sprintf("it needs feature level %d, and the journal's is %d", level, has)).
		WithHint("upgrade the members that have an earlier release: pollux journal ls")
}
