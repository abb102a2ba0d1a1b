package standby

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/state"
)

const fileVersion = 1

// cursor is what is durable of how far the standby is.
type cursor struct {
	Version int       `json:"version"`
	Journal uuid.UUID `json:"journal"`
	// Position is behind the objects that are taken: their commands are in the state, and
	// their frames in the images, or held.
	Position uint64        `json:"position"`
	Index    uint64        `json:"index"` // the journal index that must follow
	Token    segment.Token `json:"token"` // of the newest fence
	Time     int64         `json:"time"`  // of the newest object taken, ns, by the journal's clock
	State    string        `json:"state"` // the file that has the control state at Position
	// Through is the position up to which objects are being applied: images may hold
	// anything of [Position, Through). It is Position or less where none is.
	Through uint64                            `json:"through"`
	Streams map[change.StreamID]*streamCursor `json:"streams"`
	Volumes map[string]*volumeCursor          `json:"volumes"`
	// Samples say what the journal index was at earlier positions, the more roughly the
	// longer ago: a fence that goes back is traced by them.
	Samples []sample `json:"samples"`
}

// streamCursor is where one stream is.
type streamCursor struct {
	Applied change.Point `json:"applied"` // the point at which its volumes' images are
	Time    int64        `json:"time"`    // of its frame, ns, by the agent's clock
	Written int64        `json:"written"` // and of its object, by the journal's
	Tail    change.Point `json:"tail"`    // the last frame taken
	// Held are entries behind Applied that are taken and staged, but not applied, because of
	// a resync that has not ended; oldest first.
	Held []piece `json:"held,omitempty"`
	// LetGo: not all that is behind Applied is staged.
	LetGo  bool   `json:"let_go,omitempty"`
	Broken string `json:"broken,omitempty"` // why nothing behind Tail is taken
}

// piece is a run of a stream's entries in a staged object, by journal index.
type piece struct {
	Position uint64 `json:"position"`
	First    uint64 `json:"first"`
	Last     uint64 `json:"last"`
}

// volumeCursor is where one volume is.
type volumeCursor struct {
	Number uint32          `json:"number"`
	Stream change.StreamID `json:"stream"`
	Size   int64           `json:"size_bytes"`
	Path   string          `json:"path"`
	// Following: the image is where its stream is. All below is of one that is not.
	Following bool        `json:"following,omitempty"`
	Begun     bool        `json:"begun,omitempty"` // a copy: what is at Path is ours
	Image     bool        `json:"image,omitempty"` // there is a whole one, some of which is of LSNs Low to High
	Low       uint64      `json:"low"`
	High      uint64      `json:"high"`
	Hash      change.Hash `json:"hash"` // of the frame that ends at High
	Dead      []deadRange `json:"dead,omitempty"`
	// End is the position before which all lies that the image may hold; 0: it is not known.
	End uint64 `json:"end,omitempty"`
}

// deadRange is where entries lie that a fence cut off, and that the image may hold.
type deadRange struct {
	From  uint64 `json:"from"` // positions
	To    uint64 `json:"to"`
	Index uint64 `json:"index"` // the first journal index that is dead
	// At is where the volume's stream goes on: the dead entries lie behind it.
	At change.Point `json:"at"`
}

type sample struct {
	Position uint64 `json:"position"`
	Index    uint64 `json:"index"` // the one that had to follow there
}

// torn reports whether images may hold some of what is being applied, so that they are at no point.
func (c *cursor) torn() bool { return c.Through > c.Position }

func (c *cursor) clone() *cursor {
	out := *c
	out.Streams = make(map[change.StreamID]*streamCursor, len(c.Streams))
	for id, s := range c.Streams {
		d := *s
		d.Held = slices.Clone(s.Held)
		out.Streams[id] = &d
	}
	out.Volumes = make(map[string]*volumeCursor, len(c.Volumes))
	for name, v := range c.Volumes {
		d := *v
		d.Dead = slices.Clone(v.Dead)
		out.Volumes[name] = &d
	}
	out.Samples = slices.Clone(c.Samples)
	return &out
}

func (c *cursor) stream(id change.StreamID) *streamCursor {
	s := c.Streams[id]
	if s == nil {
		s = &streamCursor{}
		c.Streams[id] = s
	}
	return s
}

const (
	sampleEvery = 16 // objects
	maxSamples  = 64
)

// sample notes where it is, now and then. When there are many, of the older half every other
// one goes, but never the first.
func (c *cursor) sample() {
	n := len(c.Samples)
	if n > 0 && c.Position < c.Samples[n-1].Position+sampleEvery {
		return
	}
	c.Samples = append(c.Samples, sample{c.Position, c.Index})
	if n+1 <= maxSamples {
		return
	}
	kept := c.Samples[:0:0]
	for i, s := range c.Samples {
		if i > n/2 || i%2 == 0 {
			kept = append(kept, s)
		}
	}
	c.Samples = kept
}

// before is a position from which on all entries lie that were taken from a journal index on.
func (c *cursor) before(index uint64) uint64 {
	for _, s := range slices.Backward(c.Samples) {
		if s.Index <= index {
			return s.Position
		}
	}
	return 0
}

// stateFile is the control state on disk.
type stateFile struct {
	Version int                        `json:"version"`
	State   map[string]json.RawMessage `json:"state"` // as package state saves it
}

// stateName is the file of the control state at a position.
func stateName(position uint64) string { return fmt.Sprintf("state-%020d.json", position) }

func saveState(fs vfs.FS, path string, s *state.State) error {
	out := stateFile{Version: fileVersion, State: map[string]json.RawMessage{}}
	for _, key := range s.Keys() {
		out.State[key] = s.Save(key)
	}
	return saveFile(fs, path, out)
}

func loadState(fs vfs.FS, path string) (*state.State, error) {
	var f stateFile
	found, err := loadFile(fs, path, &f)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fail.New(fail.Damaged, "load", path, "the control state that the cursor names is missing")
	}
	s := state.New()
	for _, key := range slices.Sorted(maps.Keys(f.State)) {
		if err := s.Load(key, f.State[key]); err != nil {
			return nil, fail.At("load", path, err)
		}
	}
	return s, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// saveFile writes v as one line of JSON followed by its CRC-32C, as the agent's small files
// are, atomically and durably.
func saveFile(fs vfs.FS, path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fail.Wrap(fail.Internal, "save", path, err)
	}
	return fail.Wrap(fail.Full, "save", path, atomicfile.WriteFile(fs, path, sealed(b)))
}

// sealed is a line of JSON with its checksum.
func sealed(b []byte) []byte {
	return fmt.Appendf(nil, "%s\ncrc32c %08x\n", b, crc32.Checksum(b, castagnoli))
}

// loadFile reads what saveFile wrote; found is false where there is no file.
func loadFile(fs vfs.FS, path string, v any) (found bool, err error) {
	b, err := readFile(fs, path)
	if oserror.IsNotExist(err) {
		return false, nil
	}
	if err != nil {
		return false, fail.Wrap(fail.Denied, "load", path, err)
	}
	return true, decodeFile(path, b, v)
}

// DecodeCursor checks what cursor.json holds, and returns it as JSON. Errors: fail.Damaged,
// fail.Unsupported.
func DecodeCursor(path string, b []byte) (json.RawMessage, error) {
	c := &cursor{}
	if err := decodeFile(path, b, c); err != nil {
		return nil, err
	}
	out, err := json.Marshal(c)
	return out, fail.Wrap(fail.Internal, "encode", path, err)
}

// decodeFile reads what a file of saveFile holds.
func decodeFile(path string, b []byte, v any) error {
	body, tail, ok := strings.Cut(string(b), "\n")
	if !ok || tail != fmt.Sprintf("crc32c %08x\n", crc32.Checksum([]byte(body), castagnoli)) {
		return fail.New(fail.Damaged, "load", path, "checksum does not match").
			WithHint("stop the standby, remove its directory and its images, and let it copy the volumes anew")
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal([]byte(body), &head); err != nil {
		return fail.Wrap(fail.Damaged, "load", path, err)
	}
	if head.Version != fileVersion {
		return fail.New(fail.Unsupported, "load", path,
			fmt.Sprintf("version %d; this build reads %d", head.Version, fileVersion))
	}
	return fail.Wrap(fail.Damaged, "load", path, json.Unmarshal([]byte(body), v))
}

func readFile(fs vfs.FS, path string) ([]byte, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}
