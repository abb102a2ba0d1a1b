package state

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Load puts back what Save returned; nothing takes away. Whoever writes the store or
// the file that it comes from could have written anything: what Apply would never have
// let in is fail.Damaged, names above all, for they become paths and lines of a
// terminal. What Apply lets in must pass here, or a journal could not start again.
func (s *State) Load(key string, b []byte) error {
	what, name, _ := strings.Cut(key, "/")
	if (len(b) == 0 || string(b) == "null") && what == "bookmark" {
		delete(s.Bookmarks, name)
		return nil
	}
	var err error
	switch what {
	case "group":
		err = load(b, s.Groups, name, func(g *Group) error { return g.checkLoaded(name) })
	case "stream":
		err = s.loadStream(name, b)
	case "mark":
		err = load(b, s.Barriers, name, func(m *Barrier) error { return m.checkLoaded(name) })
	case "volume":
		if err = load(b, s.Volumes, name, func(v *Volume) error { return v.checkLoaded(name) }); err == nil {
			s.next = max(s.next, s.Volumes[name].Number+1)
		}
	case "bookmark":
		err = load(b, s.Bookmarks, name, func(m *Bookmark) error { return m.checkLoaded(name) })
	case "audit":
		err = s.loadAudit(name, b)
	case "site":
		err = load(b, s.Sites, name, func(x *Site) error { return x.checkLoaded(name) })
	case "journal":
		err = s.loadJournal(key, b)
	default:
		if err = unknownKey(); !nameRule.MatchString(what) {
			err = fmt.Errorf("not a key") // of no release
		}
	}
	if fail.Is(err, fail.Unsupported) {
		return fail.At("load", fmt.Sprintf("%q", key), err)
	}
	return fail.Wrap(fail.Damaged, "load", fmt.Sprintf("%q", key), err)
}

func unknownKey() error {
	return fail.New(fail.Unsupported, "", "", "unknown key").WithHint("use a pollux version that knows it")
}

func (s *State) loadJournal(key string, b []byte) error {
	switch key {
	case keyLevel:
		return loadValue(b, (*FeatureLevel).check, func(r *FeatureLevel) { s.Level = r.Level })
	case keySeat:
		check := func(seat *Seat) error { return (&SeatPut{Site: seat.Site, Epoch: seat.Epoch}).check() }
		return loadValue(b, check, func(seat *Seat) { s.Seat = *seat })
	case keyHandOver:
		if none(b) {
			s.HandOver = nil
			return nil
		}
		return loadValue(b, (*HandOver).check, func(r *HandOver) { s.HandOver = r })
	case keyWayBack:
		if none(b) {
			s.WayBack = nil
			return nil
		}
		return loadValue(b, (*WayBack).checkLoaded, func(r *WayBack) { s.WayBack = r })
	case keyMoves:
		return loadValue(b, (*seatMoves).check, func(m *seatMoves) { s.Moves = m.Moves })
	}
	return unknownKey()
}

// loadValue decodes and checks a value, and only then sets it.
func loadValue[T any](b []byte, check func(*T) error, set func(*T)) error {
	v := new(T)
	err := json.Unmarshal(b, v)
	if err == nil {
		err = check(v)
	}
	if err == nil {
		set(v)
	}
	return err
}

// none is that a key is there without a value.
func none(b []byte) bool { return len(b) == 0 || string(b) == "null" }

func (r *Site) checkLoaded(name string) error {
	if r.Name != name {
		return otherKey(fmt.Sprintf("site %q", r.Name))
	}
	return r.checkApplied()
}

func (s *State) loadStream(name string, b []byte) error {
	id, err := uuid.Parse(name)
	if err != nil {
		return err
	}
	err = load(b, s.Streams, id, func(st *Stream) error {
		if st.ID != id {
			return otherKey("stream " + st.ID.String())
		}
		return CheckName("group", st.Group)
	})
	if err == nil {
		s.next = max(s.next, s.Streams[id].Number+1)
	}
	return err
}

func (s *State) loadAudit(name string, b []byte) error {
	slot, err := strconv.ParseUint(name, 10, 64)
	if err != nil {
		return err
	}
	err = load(b, s.Audits, slot, func(a *Audit) error {
		if a.Number%KeptAudits != slot {
			return otherKey(fmt.Sprintf("audit entry %d", a.Number))
		}
		return nil
	})
	if err == nil {
		s.audits = max(s.audits, s.Audits[slot].Number)
	}
	return err
}

// load decodes b into the place of a key, if check has nothing against it.
func load[K comparable, T any](b []byte, into map[K]*T, key K, check func(*T) error) error {
	v := new(T)
	if err := json.Unmarshal(b, v); err != nil {
		return err
	}
	if err := check(v); err != nil {
		return err
	}
	into[key] = v
	return nil
}

func otherKey(what string) error { return fmt.Errorf("it is %s", what) }

func (g *Group) checkLoaded(name string) error {
	if g.Name != name {
		return otherKey(fmt.Sprintf("group %q", g.Name))
	}
	return g.checkApplied()
}

func (v *Volume) checkLoaded(name string) error {
	if v.Name != name {
		return otherKey(fmt.Sprintf("volume %q", v.Name))
	}
	if err := CheckName("volume", v.Name); err != nil {
		return err
	}
	if v.SizeBytes <= 0 {
		return fmt.Errorf("a size of %d bytes", v.SizeBytes)
	}
	return CheckName("group", v.Group)
}

func (b *Bookmark) checkLoaded(key string) error {
	if b.Group+"/"+b.Name != key {
		return otherKey(fmt.Sprintf("bookmark %q of group %q", b.Name, b.Group))
	}
	if err := CheckName("bookmark", b.Name); err != nil {
		return err
	}
	return CheckName("group", b.Group)
}

func (m *Barrier) checkLoaded(group string) error {
	if m.Group != group {
		return otherKey(fmt.Sprintf("a mark of group %q", m.Group))
	}
	for id, p := range m.Parts {
		if p == nil {
			return fmt.Errorf("stream %s has no part", id)
		}
	}
	if err := CheckName("bookmark", m.Name); err != nil {
		return err
	}
	return CheckName("group", m.Group)
}
