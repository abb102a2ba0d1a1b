package state

import (
	"fmt"

	"github.com/pollux-dr/pollux/internal/fail"
)

// command is what can be done with a kind of command.
type command struct {
	// check looks at the command alone: it refuses what no state may take. A journal
	// asks it before it proposes; Apply does not, because a log of an earlier release
	// may hold what is refused by now.
	check func(body []byte) error
	apply func(s *State, body []byte) (changed []string, err error)
}

// commands are all kinds that change the state.
var commands = map[Kind]command{
	KindGroupPut:       one((*Group).checkPut, (*State).putGroup),
	KindStreamCreate:   one((*Stream).check, (*State).createStream),
	KindVolumeCreate:   one((*Volume).check, (*State).createVolume),
	KindVolumeReady:    one((*VolumeReady).check, (*State).volumeReady),
	KindVolumeRemove:   one((*VolumeRemove).check, (*State).removeVolume),
	KindBookmarkAdd:    one((*Bookmark).check, (*State).addBookmark),
	KindBookmarkRemove: one((*BookmarkRemove).check, (*State).removeBookmark),
	KindLease:          one((*LeaseGrant).check, (*State).grantLease),
	KindHeartbeat:      many((*Heartbeat).check, func(*State, *Heartbeat) ([]string, error) { return nil, nil }),
	KindAudit:          one((*Audit).check, (*State).addAudit),
	KindResyncBegin:    one((*ResyncBegin).check, (*State).beginResync),
	KindResyncEnd:      one((*ResyncEnd).check, (*State).endResync),
	KindMarkBegin:      one((*MarkBegin).check, (*State).beginMark),
	KindMarkHeld:       one((*MarkStep).check, (*State).holdMark),
	KindMarkConfirm:    many((*MarkStep).check, (*State).confirmMark),
	KindMarkVoid:       one((*MarkStep).check, (*State).voidMark),
	KindHorizon:        many((*Horizon).check, (*State).moveHorizon),
	KindStreamHorizon:  many((*StreamHorizon).check, (*State).moveStreamHorizon),
	KindFeatureLevel:   strict((*FeatureLevel).check, (*State).raiseLevel), // what raises it cannot need it
	KindGroupPatch:     strict((*GroupPatch).check, (*State).patchGroup),
	KindSite:           strictMany((*Site).check, (*State).putSite),
	KindSeat:           strictMany((*SeatPut).check, (*State).putSeat),
	KindStreamMove:     strictMany((*StreamMove).check, (*State).moveStream),
	KindSeatMove:       strictMany((*SeatMove).check, (*State).moveSeat),
	KindHandOver:       strictMany((*HandOver).check, (*State).handOver),
	KindWayBack:        strictMany((*WayBack).check, (*State).wayBack),
}

// maxUnknown is what a command may hold beside twice what this release knows of it.
const maxUnknown = 4 << 10

// many makes the command of type T from its check and from what changes the state by
// it and names the keys of what changed. Fields that are not known are passed over.
func many[T any](check func(*T) error, do func(*State, *T) ([]string, error)) command {
	return newCommand(unmarshal, check, do)
}

// strictMany is many for what an earlier release stops at, and does not read in part.
func strictMany[T any](check func(*T) error, do func(*State, *T) ([]string, error)) command {
	return newCommand(unmarshalStrict, check, do)
}

func newCommand[T any](unmarshal func([]byte, any) error, check func(*T) error,
	do func(*State, *T) ([]string, error)) command {
	decode := func(body []byte) (*T, error) {
		v := new(T)
		return v, unmarshal(body, v)
	}
	return command{
		check: func(body []byte) error {
			v, err := decode(body)
			if err == nil {
				err = check(v)
			}
			if err != nil || len(body) <= maxUnknown {
				return err
			}
			if known := len(encode(v)); len(body) > 2*known+maxUnknown {
				return invalid("%d bytes, of which %d are known", len(body), known)
			}
			return nil
		},
		apply: func(s *State, body []byte) ([]string, error) {
			v, err := decode(body)
			if err != nil {
				return nil, err
			}
			return do(s, v)
		},
	}
}

// one is many for what changes one thing.
func one[T any](check func(*T) error, do func(*State, *T) (string, error)) command {
	return many(check, keyOf(do))
}

// strict is strictMany for what changes one thing.
func strict[T any](check func(*T) error, do func(*State, *T) (string, error)) command {
	return strictMany(check, keyOf(do))
}

func keyOf[T any](do func(*State, *T) (string, error)) func(*State, *T) ([]string, error) {
	return func(s *State, v *T) ([]string, error) {
		key, err := do(s, v)
		if err != nil {
			return nil, err
		}
		return []string{key}, nil
	}
}

func commandOf(kind Kind) (command, error) {
	c, known := commands[kind]
	if !known {
		return c, fail.New(fail.Unsupported, "apply", kind.String(), "unknown command").
			WithHint("use a pollux version that knows it")
	}
	return c, nil
}

// Check refuses a command that cannot be right whatever the state is: an unknown
// kind, what is not JSON of its type, a value that is out of bounds, or one that is
// not the proposer's to set. Errors are fail.Invalid, Damaged or Unsupported.
func Check(kind Kind, body []byte) error {
	c, err := commandOf(kind)
	if err == nil {
		err = c.check(body)
	}
	return fail.At("check", kind.String(), err)
}

// Apply changes the state by one command and returns the keys of what changed,
// for Save. A command that the state forbids changes nothing and returns an
// error, everywhere the same.
func (s *State) Apply(kind Kind, body []byte) (changed []string, err error) {
	c, err := commandOf(kind)
	if err == nil {
		err = CheckLevel(kind, s.Level)
	}
	if err == nil {
		err = s.mayTake(kind)
	}
	if err == nil {
		changed, err = c.apply(s, body)
	}
	return changed, err
}

// invalid says what is wrong with a command.
func invalid(format string, args ...any) error {
	return fail.New(fail.Invalid, "", "", fmt.Sprintf(format, args...))
}
