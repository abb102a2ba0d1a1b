package state

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/text"
)

// State is the control state. Its methods are for one goroutine at a time.
type State struct {
	Groups    map[string]*Group
	Streams   map[change.StreamID]*Stream
	Volumes   map[string]*Volume
	Bookmarks map[string]*Bookmark // by "group/name"
	Barriers  map[string]*Barrier  // by group: the newest over several hosts
	Sites     map[string]*Site
	Seat      Seat              // where the journal is
	Moves     []SeatMove        // how it came there, oldest first
	HandOver  *HandOver         // the newest of this epoch; nil where there was none
	WayBack   *WayBack          // to the point of the hand-over that began the epoch; nil where there is none
	Level     int               // the feature level: see level.go
	Audits    map[uint64]*Audit // the newest, by number modulo KeptAudits
	audits    uint64            // how many there were
	next      uint32            // the next stream's or volume's number
}

// New returns an empty state.
func New() *State {
	return &State{Groups: map[string]*Group{}, Streams: map[change.StreamID]*Stream{},
		Volumes: map[string]*Volume{}, Bookmarks: map[string]*Bookmark{}, Barriers: map[string]*Barrier{},
		Sites: map[string]*Site{}, Audits: map[uint64]*Audit{}, next: 1}
}

var nameRule = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]*$`)

// CheckName refuses names that could be mistaken for an LSN or a time, or that
// no file or URL could carry.
func CheckName(what, name string) error {
	if len(name) > change.MaxNameBytes || !nameRule.MatchString(name) {
		return fail.New(fail.Invalid, "name", what, fmt.Sprintf("%q", name)).
			WithHint("a name begins with a letter and has letters, digits, '_', '.', '-' only")
	}
	return nil
}

func (s *State) putGroup(g *Group) (string, error) {
	if err := CheckName("group", g.Name); err != nil {
		return "", err
	}
	if err := g.Retention.check(); err != nil {
		return "", err
	}
	g.Horizon, g.Revision, g.Standbys = time.Time{}, 0, nil // not for this command to set
	if old := s.Groups[g.Name]; old != nil {
		g.Created, g.Owner, g.Horizon = old.Created, old.Owner, old.Horizon
		g.Revision, g.Standbys = old.Revision, old.Standbys
	} else if err := checkRoom("group", g.Name, g.Owner, MaxGroups, s.Groups, ownerOf); err != nil {
		return "", err
	}
	if s.Level >= LevelOf(KindGroupPatch) { // members of an earlier release have no revisions
		g.Revision++
	}
	s.Groups[g.Name] = g
	return "group/" + g.Name, nil
}

func (s *State) createStream(st *Stream) (string, error) {
	if s.Groups[st.Group] == nil {
		return "", noSuch("group", st.Group)
	}
	if s.StreamOf(st.Group, st.Agent) != nil || s.Streams[st.ID] != nil {
		return "", fail.New(fail.Exists, "create stream", st.Group+" on "+st.Agent, "it exists")
	}
	if err := checkRoom("stream", st.Group+" on "+st.Agent, st.Agent, MaxStreams, s.Streams, agentOf); err != nil {
		return "", err
	}
	// Leases, gaps and resyncs are what the journal makes of later commands.
	s.Streams[st.ID] = &Stream{ID: st.ID, Number: s.number(), Group: st.Group, Agent: st.Agent}
	return "stream/" + st.ID.String(), nil
}

func (s *State) number() uint32 {
	n := s.next
	s.next++
	return n
}

func noSuch(what, name string) error {
	return fail.New(fail.NotFound, "find", what+" "+name, "no such "+what)
}

func (s *State) createVolume(v *Volume) (string, error) {
	if err := CheckName("volume", v.Name); err != nil {
		return "", err
	}
	if s.Groups[v.Group] == nil {
		return "", noSuch("group", v.Group)
	}
	if s.Streams[v.Stream] == nil {
		return "", noSuch("stream", v.Stream.String())
	}
	if old := s.Volumes[v.Name]; old != nil {
		why := "a volume of that name exists"
		if old.Removed {
			why = "a removed volume of that name still has its history in the log"
		}
		return "", fail.New(fail.Exists, "create volume", v.Name, why).WithHint("choose another name")
	}
	if v.SizeBytes <= 0 {
		return "", fail.New(fail.Invalid, "create volume", v.Name, fmt.Sprintf("size of %d bytes", v.SizeBytes))
	}
	for _, o := range s.Volumes {
		if !o.Removed && o.Agent == v.Agent && o.Backing == v.Backing {
			return "", fail.New(fail.Refused, "create volume", v.Name,
				"volume "+o.Name+" uses the same backing "+v.Backing)
		}
	}
	if err := checkRoom("volume", v.Name, v.Agent, MaxVolumes, s.Volumes, holderOf); err != nil {
		return "", err
	}
	v.Number, v.FirstLSN, v.Ready, v.Removed = s.number(), 0, false, false
	s.Volumes[v.Name] = v
	return "volume/" + v.Name, nil
}

func (s *State) volume(name string) (*Volume, error) {
	v := s.Volumes[name]
	if v == nil || v.Removed {
		return nil, noSuch("volume", name)
	}
	return v, nil
}

func (s *State) volumeReady(r *VolumeReady) (string, error) {
	v, err := s.volume(r.Name)
	if err != nil {
		return "", err
	}
	v.Ready, v.FirstLSN = true, r.FirstLSN
	return "volume/" + v.Name, nil
}

func (s *State) removeVolume(r *VolumeRemove) (string, error) {
	v, err := s.volume(r.Name)
	if err != nil {
		return "", err
	}
	v.Removed = true
	return "volume/" + v.Name, nil
}

func (s *State) addBookmark(b *Bookmark) (string, error) {
	if err := CheckName("bookmark", b.Name); err != nil {
		return "", err
	}
	key := b.Group + "/" + b.Name
	if s.Groups[b.Group] == nil {
		return "", noSuch("group", b.Group)
	}
	if err := s.beforeHorizon("bookmark "+key, b.Stream, b.LSN); err != nil {
		return "", err
	}
	if s.Bookmarks[key] != nil {
		return "", fail.New(fail.Exists, "add bookmark", key, "it exists").WithHint("choose another name")
	}
	if err := s.bookmarkRoom(b); err != nil {
		return "", err
	}
	s.Bookmarks[key] = b
	return "bookmark/" + key, nil
}

// KeptAudits is how many audit entries the state keeps; the object log has all.
const KeptAudits = 1024

// MaxAuditBytes bounds the texts of an audit entry.
const MaxAuditBytes = 8 << 10

func (a *Audit) checkSize() error {
	if n := len(a.Who) + len(a.Host) + len(a.Verb) + len(a.Request) + len(a.Outcome); n > MaxAuditBytes {
		return fail.New(fail.Invalid, "add audit entry", a.Verb, fmt.Sprintf("%d bytes exceed %d", n, MaxAuditBytes))
	}
	return nil
}

// maxRequestValues bounds what the request of an audit entry holds: a catalog has to be
// able to carry all entries.
const maxRequestValues = 128

// AuditCount is how many entries the audit has had.
func (s *State) AuditCount() uint64 { return s.audits }

func (s *State) addAudit(a *Audit) (string, error) {
	if err := a.checkSize(); err != nil {
		return "", err
	}
	a.Who, a.Host, a.Verb, a.Outcome = text.Line(a.Who), text.Line(a.Host), text.Line(a.Verb), text.Line(a.Outcome)
	if n := bytes.Count(a.Request, []byte("{")) + bytes.Count(a.Request, []byte("null")); n > maxRequestValues {
		a.Request = json.RawMessage(strconv.Quote(fmt.Sprintf("%d values", n)))
	}
	s.audits++
	a.Number = s.audits
	s.Audits[a.Number%KeptAudits] = a
	return fmt.Sprintf("audit/%d", a.Number%KeptAudits), nil
}

func (s *State) grantLease(g *LeaseGrant) (string, error) {
	st := s.Streams[g.Stream]
	if st == nil {
		return "", noSuch("stream", g.Stream.String())
	}
	if st.Agent != g.Agent {
		return "", fail.New(fail.Fenced, "attach", "group "+st.Group,
			fmt.Sprintf("the stream belongs to agent %s, not %s", st.Agent, g.Agent))
	}
	st.Lease = change.Lease{Epoch: g.Epoch, Number: st.Lease.Number + 1}
	return "stream/" + st.ID.String(), nil
}

// leased returns a stream of which the lease is the present one.
func (s *State) leased(id change.StreamID, lease change.Lease) (*Stream, error) {
	st := s.Streams[id]
	if st == nil {
		return nil, noSuch("stream", id.String())
	}
	if st.Lease != lease {
		return nil, fail.New(fail.Fenced, "resync", "group "+st.Group,
			fmt.Sprintf("lease %d of epoch %d was superseded", lease.Number, lease.Epoch))
	}
	return st, nil
}

func (s *State) beginResync(r *ResyncBegin) (string, error) {
	st, err := s.leased(r.Stream, r.Lease)
	if err != nil {
		return "", err
	}
	if r.To.LSN <= r.From.LSN {
		return "", fail.New(fail.Invalid, "resync", "group "+st.Group,
			fmt.Sprintf("a gap from LSN %d to %d", r.From.LSN, r.To.LSN))
	}
	if len(st.Gaps) >= MaxGaps {
		st.forgetGaps()
	}
	if len(st.Gaps) >= MaxGaps {
		return "", fail.New(fail.Refused, "resync", "group "+st.Group, fmt.Sprintf("it has %d gaps", len(st.Gaps))).
			WithHint("give the group a retention, so that old ones can go, or protect the volumes in a new group")
	}
	st.Gaps = append(st.Gaps, r.Gap)
	if !st.Resyncing() {
		st.Resyncs = append(st.Resyncs, Resync{After: r.From.LSN})
	}
	return "stream/" + st.ID.String(), nil
}

func (s *State) endResync(r *ResyncEnd) (string, error) {
	st, err := s.leased(r.Stream, r.Lease)
	if err != nil {
		return "", err
	}
	if !st.Resyncing() {
		return "", noSuch("resync of", "group "+st.Group) // said twice
	}
	if gap := st.NewestGap(); gap != r.To {
		return "", fail.New(fail.Refused, "end resync", "group "+st.Group,
			fmt.Sprintf("of the gap up to %v, its newest is up to %v", r.To, gap))
	}
	last := &st.Resyncs[len(st.Resyncs)-1]
	if r.LSN < last.After {
		return "", fail.New(fail.Invalid, "end resync", "group "+st.Group,
			fmt.Sprintf("at LSN %d, it began after %d", r.LSN, last.After))
	}
	last.Until = r.LSN
	return "stream/" + st.ID.String(), nil
}

// StreamOf returns the agent's stream of a group, or nil.
func (s *State) StreamOf(group, agent string) *Stream {
	for _, st := range s.Streams {
		if st.Group == group && st.Agent == agent {
			return st
		}
	}
	return nil
}

// Keys of what there is one of.
const (
	keyLevel = "journal/level"
	keySeat  = "journal/seat"
	keyMoves = "journal/moves"

	keyHandOver = "journal/hand-over"
	keyWayBack  = "journal/way-back"
)

// KeyLevel is the feature level from which on there is a key; copies of the state that
// earlier releases keep have no place for it.
func KeyLevel(key string) int {
	switch what, _, _ := strings.Cut(key, "/"); {
	case key == keyMoves:
		return 2
	case key == keyHandOver:
		return 3
	case key == keyWayBack:
		return 4
	case what == "journal", what == "site":
		return 1
	}
	return 0
}

// Keys lists the keys of all that there is, for Save.
func (s *State) Keys() []string {
	var keys []string
	for name := range s.Groups {
		keys = append(keys, "group/"+name)
	}
	for id := range s.Streams {
		keys = append(keys, "stream/"+id.String())
	}
	for name := range s.Volumes {
		keys = append(keys, "volume/"+name)
	}
	for key := range s.Bookmarks {
		keys = append(keys, "bookmark/"+key)
	}
	for group := range s.Barriers {
		keys = append(keys, "mark/"+group)
	}
	for slot := range s.Audits {
		keys = append(keys, fmt.Sprintf("audit/%d", slot))
	}
	for name := range s.Sites {
		keys = append(keys, "site/"+name)
	}
	if s.Level > 0 {
		keys = append(keys, keyLevel)
	}
	if s.Seat.Epoch > 0 {
		keys = append(keys, keySeat)
	}
	if len(s.Moves) > 0 {
		keys = append(keys, keyMoves)
	}
	if s.HandOver != nil {
		keys = append(keys, keyHandOver)
	}
	if s.WayBack != nil {
		keys = append(keys, keyWayBack)
	}
	return keys
}

// Save returns the JSON of what a key of Apply names, nil where it is gone.
func (s *State) Save(key string) []byte {
	switch key {
	case keyLevel:
		return encode(FeatureLevel{s.Level})
	case keySeat:
		return encode(s.Seat)
	case keyMoves:
		return encode(seatMoves{s.Moves})
	case keyHandOver:
		if s.HandOver == nil {
			return nil
		}
		return encode(s.HandOver)
	case keyWayBack:
		if s.WayBack == nil {
			return nil
		}
		return encode(s.WayBack)
	}
	what, name, _ := strings.Cut(key, "/")
	var v any
	switch what {
	case "site":
		v = s.Sites[name]
	case "group":
		v = s.Groups[name]
	case "stream":
		v = s.Streams[uuid.MustParse(name)]
	case "volume":
		v = s.Volumes[name]
	case "bookmark":
		if v = s.Bookmarks[name]; s.Bookmarks[name] == nil {
			return nil
		}
	case "mark":
		v = s.Barriers[name]
	case "audit":
		v = s.audit(name)
	}
	return encode(v)
}

// audit is the entry in a slot, nil where there is none.
func (s *State) audit(slot string) *Audit {
	n, err := strconv.ParseUint(slot, 10, 64)
	if err != nil {
		return nil
	}
	return s.Audits[n]
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own plain structs
	}
	return b
}

// Sorted returns a map's values in the order of less.
func Sorted[K comparable, T any](m map[K]*T, name func(*T) string) []*T {
	return slices.SortedFunc(maps.Values(m), func(a, b *T) int { return cmp.Compare(name(a), name(b)) })
}
