package state

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// Kind names a command, or a document of the object log.
type Kind uint16

const (
	KindGroupPut     Kind = 1 // create a group or change its settings
	KindStreamCreate Kind = 2
	KindVolumeCreate Kind = 3
	KindVolumeReady  Kind = 4
	KindVolumeRemove Kind = 5
	KindBookmarkAdd  Kind = 6
	KindLease        Kind = 7
	KindHeartbeat    Kind = 8
	KindAudit        Kind = 9
	KindResyncBegin  Kind = 10
	KindResyncEnd    Kind = 11
	KindMarkBegin    Kind = 12
	KindMarkHeld     Kind = 13
	KindMarkConfirm  Kind = 14
	KindMarkVoid     Kind = 15
	KindHorizon      Kind = 16

	KindBookmarkRemove Kind = 17
	KindStreamHorizon  Kind = 18

	// From feature level 1 on.
	KindFeatureLevel Kind = 19
	KindGroupPatch   Kind = 20
	KindSite         Kind = 21
	KindSeat         Kind = 22
	KindStreamMove   Kind = 23

	// From feature level 2 on.
	KindSeatMove Kind = 24

	// From feature level 3 on.
	KindHandOver Kind = 26

	// From feature level 4 on.
	KindWayBack Kind = 27

	KindIdentity Kind = 100 // the object log's first object
	KindFence    Kind = 101
	KindReady    Kind = 102 // beside the object log: a site is ready to take a hand-over up
)

func (k Kind) String() string {
	if n, ok := kindNames[k]; ok {
		return n
	}
	return fmt.Sprintf("command(%d)", uint16(k))
}

var kindNames = map[Kind]string{
	KindGroupPut: "group-put", KindStreamCreate: "stream-create", KindVolumeCreate: "volume-create",
	KindVolumeReady: "volume-ready", KindVolumeRemove: "volume-remove", KindBookmarkAdd: "bookmark-add",
	KindLease: "lease", KindHeartbeat: "heartbeat", KindAudit: "audit", KindResyncBegin: "resync-begin",
	KindResyncEnd: "resync-end", KindMarkBegin: "mark-begin", KindMarkHeld: "mark-held",
	KindMarkConfirm: "mark-confirm", KindMarkVoid: "mark-void",
	KindHorizon: "horizon", KindBookmarkRemove: "bookmark-remove",
	KindStreamHorizon: "stream-horizon", KindFeatureLevel: "feature-level", KindGroupPatch: "group-patch",
	KindSite: "site", KindSeat: "seat", KindStreamMove: "stream-move", KindSeatMove: "seat-move",
	KindHandOver: "hand-over", KindWayBack: "way-back", KindReady: "ready",
	KindIdentity: "identity", KindFence: "fence",
}

// Group is a consistency group and its policy.
type Group struct {
	Name             string  `json:"name"`
	Ack              string  `json:"ack"`
	OnAckLoss        string  `json:"on_ack_loss,omitempty"` // wait where it is empty
	Overflow         string  `json:"overflow"`
	PITR             string  `json:"pitr"`
	RPOTargetSeconds float64 `json:"rpo_target_seconds"`
	Paused           bool    `json:"paused,omitempty"`
	// Retention is how long points are kept; nil keeps all. Horizon is of what time the
	// horizons of its streams are, by the journal's clock.
	Retention *Retention `json:"retention,omitempty"`
	Horizon   time.Time  `json:"horizon,omitzero"`
	Owner     string     `json:"owner,omitempty"` // the agent that created it
	// Agents are those that may have volumes in it beside the owner.
	Agents  []string  `json:"agents,omitempty"`
	Created time.Time `json:"created"`
	// Revision grows with each change since feature level 1, and Standbys are where the group is
	// secondary: sorted. Only a patch sets them.
	Revision uint64    `json:"revision,omitempty"`
	Standbys []Standby `json:"standbys,omitempty"`
}

// The values of Group.PITR: which points stay when replication is behind.
const (
	PITREveryWrite = "every-write" // all
	PITRFold       = "fold"        // overwritten blocks may be folded, and the points between are lost
)

// Stream is one agent's part of a group.
type Stream struct {
	ID     change.StreamID `json:"id"`
	Number uint32          `json:"number"`
	Group  string          `json:"group"`
	Agent  string          `json:"agent"`
	Lease  change.Lease    `json:"lease"`
	// Gaps are LSNs that its log leaves out, and Resyncs where it has no points
	// because of them; both oldest first.
	Gaps    []Gap    `json:"gaps,omitempty"`
	Resyncs []Resync `json:"resyncs,omitempty"`
	// Horizon is the LSN up to which not all points are kept; 0: all are.
	Horizon uint64 `json:"horizon,omitempty"`
	// Forgotten is the LSN up to which gaps and resyncs are not listed any more: there only
	// points are known that a catalog keeps.
	Forgotten uint64 `json:"forgotten,omitempty"`
}

// Gap is what a stream left out: it goes on behind To as if it were at From.
type Gap struct {
	From change.Point `json:"from"`
	To   change.Point `json:"to"`
}

// Resync is a range of LSNs, without its ends, that are no recovery points. Until
// is 0 while it has not ended.
type Resync struct {
	After uint64 `json:"after"`
	Until uint64 `json:"until,omitempty"`
}

// MaxGaps bounds those of one stream: when there are so many, those at or before the
// horizon go.
const MaxGaps = 4096

// forgetGaps drops the gaps and resyncs at or before the horizon.
func (s *Stream) forgetGaps() {
	n := 0
	for n < len(s.Gaps) && s.Gaps[n].To.LSN <= s.Horizon {
		s.Forgotten = s.Gaps[n].To.LSN
		n++
	}
	s.Gaps = slices.Delete(s.Gaps, 0, n)
	s.Resyncs = slices.DeleteFunc(s.Resyncs, func(r Resync) bool { return r.Until > 0 && r.Until <= s.Forgotten })
}

// Resyncing reports whether a resync has not ended: the newest state is no recovery
// point.
func (s *Stream) Resyncing() bool {
	return s != nil && len(s.Resyncs) > 0 && s.Resyncs[len(s.Resyncs)-1].Until == 0
}

// NewestGap is where the newest gap leads to, zero where there is none.
func (s *Stream) NewestGap() (to change.Point) {
	if s != nil && len(s.Gaps) > 0 {
		to = s.Gaps[len(s.Gaps)-1].To
	}
	return to
}

// GapBefore returns what the stream left out just before an LSN, nil where it has a
// record there.
func (s *Stream) GapBefore(lsn uint64) *Gap {
	if s != nil {
		for i := range s.Gaps {
			if s.Gaps[i].To.LSN+1 == lsn {
				return &s.Gaps[i]
			}
		}
	}
	return nil
}

// ForgotGapBefore reports whether the stream's gaps around an LSN are not listed any more,
// so that there may have been one just before it.
func (s *Stream) ForgotGapBefore(lsn uint64) bool {
	return s != nil && lsn <= s.Forgotten+1 && s.Forgotten > 0
}

// Consistent reports whether an LSN is a recovery point, as far as resyncs go.
func (s *Stream) Consistent(lsn uint64) bool {
	if s != nil {
		for i := range s.Resyncs {
			if r := &s.Resyncs[i]; lsn > r.After && (r.Until == 0 || lsn < r.Until) {
				return false
			}
		}
	}
	return true
}

// ResyncBegin leaves out what a stream lost of its history.
type ResyncBegin struct {
	Stream change.StreamID `json:"stream"`
	Lease  change.Lease    `json:"lease"`
	Gap
}

// ResyncEnd says that all that changed in the gaps, the last of which leads to To, is
// in the log up to LSN.
type ResyncEnd struct {
	Stream change.StreamID `json:"stream"`
	Lease  change.Lease    `json:"lease"`
	To     change.Point    `json:"to"`
	LSN    uint64          `json:"lsn"`
}

// Volume is a protected volume.
type Volume struct {
	Name      string          `json:"name"`
	Number    uint32          `json:"number"`
	Group     string          `json:"group"`
	Stream    change.StreamID `json:"stream"`
	Agent     string          `json:"agent"`
	SizeBytes int64           `json:"size_bytes"`
	Backing   string          `json:"backing"`
	Created   time.Time       `json:"created"`
	// FirstLSN is the first LSN at which the twin is complete.
	FirstLSN uint64 `json:"first_lsn"`
	Ready    bool   `json:"ready"`
	Removed  bool   `json:"removed,omitempty"`
}

// Bookmark is a named recovery point.
type Bookmark struct {
	Name   string          `json:"name"`
	Group  string          `json:"group"`
	Stream change.StreamID `json:"stream"`
	LSN    uint64          `json:"lsn"`
	Epoch  uint64          `json:"epoch"`
	Time   time.Time       `json:"time"`
	// Points are its LSNs where the group has several streams; Stream and LSN are one
	// of them. HeldSeconds is for how long the writers of one of them waited.
	Points      map[change.StreamID]uint64 `json:"points,omitempty"`
	HeldSeconds float64                    `json:"held_seconds,omitempty"`
	// Quiesced: the application stood still, and so the point is application-consistent.
	Quiesced bool `json:"quiesced,omitempty"`
}

// VolumeReady ends a volume's initial sync.
type VolumeReady struct {
	Name     string `json:"name"`
	FirstLSN uint64 `json:"first_lsn"`
}

// VolumeRemove ends a volume's protection.
type VolumeRemove struct {
	Name string `json:"name"`
}

// LeaseGrant gives a stream its next lease.
type LeaseGrant struct {
	Stream change.StreamID `json:"stream"`
	Agent  string          `json:"agent"`
	Epoch  uint64          `json:"epoch"`
}

// Heartbeat shows that an idle journal is alive.
type Heartbeat struct {
	Time time.Time `json:"time"`
}

// Audit is one verb that was to change state. Number is given by the journal.
type Audit struct {
	Number  uint64          `json:"number"`
	Time    time.Time       `json:"time"`
	Who     string          `json:"who"`
	Host    string          `json:"host"`
	Verb    string          `json:"verb"`
	Request json.RawMessage `json:"request"`
	Outcome string          `json:"outcome"`
}

// Identity is the document at position 0 of an object log.
type Identity struct {
	Journal uuid.UUID `json:"journal"`
	Format  int       `json:"format"`
	Site    string    `json:"site"`
	Created time.Time `json:"created"`
}

// FormatVersion is the object log's format that this build writes.
const FormatVersion = 1

// Fence is the document of a fence: where history goes on.
type Fence struct {
	NextIndex uint64                           `json:"next_index"`
	Streams   map[change.StreamID]change.Point `json:"streams"`
	Reason    string                           `json:"reason"`
	Site      string                           `json:"site,omitempty"` // where it goes on, if that is another one
}

// Envelope bytes come before every command's JSON:
//
//	0 4 magic "PLXC"   4 2 version   6 2 kind   8 4 JSON bytes
//	12 4 CRC-32C of bytes 0..11 and the JSON
const (
	envelopeMagic = "PLXC"
	// EnvelopeVersion is the version that this build writes and reads.
	EnvelopeVersion = 1
	EnvelopeBytes   = 16
	// MaxCommandBytes bounds one encoded command.
	MaxCommandBytes = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode wraps v, one of the types above, as a command of kind.
func Encode(kind Kind, v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own plain structs
	}
	b := make([]byte, EnvelopeBytes, EnvelopeBytes+len(body))
	copy(b, envelopeMagic)
	binary.LittleEndian.PutUint16(b[4:], EnvelopeVersion)
	binary.LittleEndian.PutUint16(b[6:], uint16(kind))
	binary.LittleEndian.PutUint32(b[8:], uint32(len(body)))
	sum := crc32.Update(crc32.Checksum(b[:12], castagnoli), castagnoli, body)
	binary.LittleEndian.PutUint32(b[12:], sum)
	return append(b, body...)
}

// Open checks an encoded command and returns its kind and JSON. Errors are
// fail.Damaged or fail.Unsupported.
func Open(b []byte) (Kind, []byte, error) {
	if len(b) < EnvelopeBytes || string(b[:4]) != envelopeMagic {
		return 0, nil, fail.New(fail.Damaged, "decode command", "at byte 0", "not a command")
	}
	le := binary.LittleEndian
	body := b[EnvelopeBytes:]
	if len(b) > MaxCommandBytes {
		return 0, nil, fail.New(fail.Damaged, "decode command", "at byte 8",
			fmt.Sprintf("%d bytes exceed %d", len(b), MaxCommandBytes))
	}
	if int(le.Uint32(b[8:])) != len(body) {
		return 0, nil, fail.New(fail.Damaged, "decode command", "at byte 8",
			fmt.Sprintf("%d bytes, its head says %d", len(body), le.Uint32(b[8:])))
	}
	if crc32.Update(crc32.Checksum(b[:12], castagnoli), castagnoli, body) != le.Uint32(b[12:]) {
		return 0, nil, fail.New(fail.Damaged, "decode command", "at byte 12", "checksum does not match")
	}
	if v := le.Uint16(b[4:]); v != EnvelopeVersion {
		return 0, nil, fail.New(fail.Unsupported, "decode command", "",
			fmt.Sprintf("version %d; this build reads %d", v, EnvelopeVersion))
	}
	return Kind(le.Uint16(b[6:])), body, nil
}

// Decode opens b, which must be of kind, into v.
func Decode(b []byte, kind Kind, v any) error {
	k, body, err := Open(b)
	if err != nil {
		return err
	}
	if k != kind {
		return fail.New(fail.Damaged, "decode command", "at byte 6", fmt.Sprintf("%v in place of %v", k, kind))
	}
	return fail.At("decode", kind.String(), unmarshal(body, v))
}

func unmarshal(body []byte, v any) error {
	return fail.Wrap(fail.Damaged, "decode", "command", json.Unmarshal(body, v))
}

// unmarshalStrict is unmarshal where a field that is not known is fail.Unsupported: it is of
// a later release, and what it says must not be passed over.
func unmarshalStrict(body []byte, v any) error {
	if err := unmarshal(body, v); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fail.New(fail.Unsupported, "decode", "command", err.Error()).
			WithHint("use a pollux version that knows it")
	}
	return nil
}
