package agent

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// StreamConf is what the agent must know of a stream before it can reach the
// journal.
type StreamConf struct {
	ID     change.StreamID `json:"id"`
	Number uint32          `json:"number"` // unique in the journal
	Group  string          `json:"group"`
	Paused bool            `json:"paused,omitempty"`
	Policy
}

// VolumeConf is a volume as the agent serves it.
type VolumeConf struct {
	Name      string          `json:"name"`
	Number    uint32          `json:"number"` // unique in the journal
	Group     string          `json:"group"`
	Stream    change.StreamID `json:"stream"`
	SizeBytes int64           `json:"size_bytes"`
	Backing   string          `json:"backing"`
	// Ready is false until the initial sync has put the backing's content into
	// the log.
	Ready bool `json:"ready"`
	// Resync is true when something of the volume may be in the log already: an
	// initial sync then logs zeros as well.
	Resync bool `json:"resync,omitempty"`
	// ReadyLSN is the first LSN at which the twin is complete.
	ReadyLSN uint64 `json:"ready_lsn,omitempty"`
	// Mark is the id that the backing bears, "" where it has no place for one.
	Mark string `json:"mark,omitempty"`
	// Accepted is true from AcceptBacking until the next start has applied all of
	// the WAL to the backing.
	Accepted bool `json:"accepted,omitempty"`
}

// manifest is the agent's durable list of streams and volumes.
type manifest struct {
	Version int          `json:"version"`
	Agent   string       `json:"agent"`
	Journal string       `json:"journal,omitempty"` // UUID of the one on other hosts
	Streams []StreamConf `json:"streams"`
	Volumes []VolumeConf `json:"volumes"`
}

// checkpoint is a stream's durable progress: the backings hold everything up to
// Applied.
type checkpoint struct {
	Version int          `json:"version"`
	Applied change.Point `json:"applied"`
	// Committed is a point that the journal is known to have reached.
	Committed change.Point `json:"committed,omitzero"`
	Lease     change.Lease `json:"lease"`
	Time      int64        `json:"time"` // ns; later frames are not earlier
	// Gone are the frames that left the WAL before the targets had them, in brief.
	Gone *lagMark `json:"gone,omitempty"`
}

const metaVersion = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// saveMeta writes v as one line of JSON followed by its CRC-32C, atomically and
// durably.
func saveMeta(fs vfs.FS, path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fail.Wrap(fail.Internal, "save", path, err)
	}
	text := fmt.Sprintf("%s\ncrc32c %08x\n", b, crc32.Checksum(b, castagnoli))
	return fail.Wrap(fail.Full, "save", path, atomicfile.WriteFile(fs, path, []byte(text)))
}

// loadMeta reads what saveMeta wrote; found is false when there is no file.
func loadMeta(fs vfs.FS, path string, v any) (found bool, err error) {
	f, err := fs.Open(path)
	if err != nil {
		if isNotExist(err) {
			return false, nil
		}
		return false, fail.Wrap(fail.Denied, "load", path, err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return false, fail.Wrap(fail.Internal, "load", path, err)
	}
	body, tail, ok := strings.Cut(string(b), "\n")
	if !ok || tail != fmt.Sprintf("crc32c %08x\n", crc32.Checksum([]byte(body), castagnoli)) {
		return false, fail.New(fail.Damaged, "load", path, "checksum does not match").
			WithHint("restore this host's volumes from the object store")
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal([]byte(body), &head); err != nil {
		return false, fail.Wrap(fail.Damaged, "load", path, err)
	}
	if head.Version != metaVersion {
		return false, fail.New(fail.Unsupported, "load", path, fmt.Sprintf("version %d; this build reads %d", head.Version, metaVersion))
	}
	return true, fail.Wrap(fail.Damaged, "load", path, json.Unmarshal([]byte(body), v))
}

// isNotExist knows the in-memory filesystem's errors as well as the system's.
func isNotExist(err error) bool { return oserror.IsNotExist(err) }
