package state

import (
	"strings"

	"github.com/google/uuid"
)

// SaveFor is Save for an agent's copy of the state, which has what the agent needs: all
// names, sizes and points, because they are shared, but of another agent's volumes no
// path, and of the audit what was done on the agent's own host. ok is false where the
// copy does not have the key.
func (s *State) SaveFor(agent, key string) (b []byte, ok bool) {
	what, name, _ := strings.Cut(key, "/")
	switch what {
	case "volume":
		if v := s.Volumes[name]; v != nil && v.Agent != agent {
			redacted := *v
			redacted.Backing = ""
			return encode(&redacted), true
		}
	case "audit":
		if a := s.audit(name); a == nil || a.Host != agent {
			return nil, false
		}
	case "stream":
		if id, err := uuid.Parse(name); err != nil || s.Streams[id] == nil {
			return nil, false
		}
	}
	return s.Save(key), true
}
