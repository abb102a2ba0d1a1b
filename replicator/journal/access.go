package journal

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/pki"
	"github.com/pollux-dr/pollux/replicator/state"
)

// allowed refuses a connection whose holder's role is not for it.
func allowed(p pki.Peer, typ change.MessageType) error {
	ok := false
	switch typ {
	case change.MsgHello, change.MsgFollow:
		ok = p.Is(pki.Agent)
	case change.MsgRaft, change.MsgJoin, change.MsgSubmit:
		ok = p.Is(pki.Journal)
	case change.MsgMember:
		ok = p.Is(pki.Journal, pki.Operator, pki.Reader)
	}
	if ok {
		return nil
	}
	return denied(p, "open "+typ.String())
}

func denied(p pki.Peer, what string) error {
	return fail.New(fail.Denied, "serve", p.String(), "its certificate does not let it "+what)
}

// isAgent refuses an agent that goes by another's name.
func isAgent(p pki.Peer, agent string) error {
	if p == pki.Local || p.Name == agent {
		return nil
	}
	return fail.New(fail.Denied, "serve", p.String(), fmt.Sprintf("it calls itself agent %q", agent)).
		WithHint("set `name` in its configuration to the certificate's, or issue one for that name")
}

// owns reports whether a group is the agent's: it created it, or, with an older
// release, is the only one that has streams in it.
func owns(st *state.State, agent, group string) bool {
	g := st.Groups[group]
	if g == nil || g.Owner != "" {
		return g != nil && g.Owner == agent
	}
	for _, s := range st.Streams {
		if s.Group == group && s.Agent != agent {
			return false
		}
	}
	return true
}

// invited reports whether a group's owner lets the agent have volumes in it.
func invited(st *state.State, agent, group string) bool {
	g := st.Groups[group]
	return g != nil && slices.Contains(g.Agents, agent)
}

// subject is what a command is about, as far as it matters for who may propose it.
type subject struct {
	Name   string          `json:"name"`
	Group  string          `json:"group"`
	Agent  string          `json:"agent"`
	Owner  string          `json:"owner"`
	Host   string          `json:"host"`
	Stream change.StreamID `json:"stream"`
	Points json.RawMessage `json:"points"` // of a bookmark over several hosts, which only a mark makes
}

// mayPropose refuses commands about what belongs to another agent in the control state
// that look shows.
func mayPropose(look func(func(*state.State)), p pki.Peer, kind state.Kind, body []byte) error {
	if kind == state.KindFeatureLevel { // only the leader knows what all members know
		return denied(p, "raise the journal's feature level")
	}
	if p.Is(pki.Operator) || p.Is(pki.Journal) && kind == state.KindAudit {
		return nil
	}
	var c subject
	if err := json.Unmarshal(body, &c); err != nil {
		return fail.Wrap(fail.Damaged, "decode", kind.String(), err)
	}
	var err error
	look(func(st *state.State) { err = c.allows(st, p, kind) })
	return err
}

// allows refuses a command of whoever does not own its subject in a control state.
func (c *subject) allows(st *state.State, p pki.Peer, kind state.Kind) error {
	stream := st.Streams[c.Stream]
	ok := false
	switch kind {
	case state.KindGroupPut, state.KindGroupPatch:
		ok = owns(st, p.Name, c.Name) || st.Groups[c.Name] == nil && c.Owner == p.Name
	case state.KindBookmarkRemove:
		ok = owns(st, p.Name, c.Group)
	case state.KindStreamCreate:
		ok = c.Agent == p.Name && (owns(st, p.Name, c.Group) || invited(st, p.Name, c.Group))
	case state.KindVolumeCreate:
		ok = c.Agent == p.Name && stream != nil && stream.Agent == p.Name && stream.Group == c.Group &&
			(owns(st, p.Name, c.Group) || invited(st, p.Name, c.Group))
	case state.KindVolumeReady, state.KindVolumeRemove:
		v := st.Volumes[c.Name]
		if v == nil { // nothing to put into Raft's log for
			return fail.New(fail.NotFound, kind.String(), "volume "+c.Name, "no such volume")
		}
		ok = v.Agent == p.Name
	case state.KindAudit:
		ok = c.Host == p.Name // who it was is that host's word
	case state.KindMarkBegin, state.KindMarkVoid:
		ok = owns(st, p.Name, c.Group) || st.StreamOf(c.Group, p.Name) != nil
	case state.KindMarkHeld, state.KindMarkConfirm, state.KindBookmarkAdd:
		ok = c.Points == nil && stream != nil && stream.Agent == p.Name && stream.Group == c.Group
	}
	if !ok {
		return notYours(st, p, kind, c.Group, c.Name)
	}
	return nil
}

// notYours says whose it is.
func notYours(st *state.State, p pki.Peer, kind state.Kind, group, name string) error {
	if kind == state.KindGroupPut || kind == state.KindGroupPatch {
		group = name
	}
	e := fail.New(fail.Denied, kind.String(), cmp.Or(group, name), fmt.Sprintf("it is not %s's", p.Name))
	g := st.Groups[group]
	switch {
	case g == nil || g.Owner == "":
		return e
	case kind == state.KindStreamCreate:
		return e.WithHint(fmt.Sprintf(
			"group %s is agent %s's; there, `pollux group set %s --agents %s` lets this one have volumes in it",
			group, g.Owner, group, p.Name))
	}
	return e.WithHint(fmt.Sprintf("group %s is agent %s's: do it there", group, g.Owner))
}
