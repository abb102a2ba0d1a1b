package agent

import (
	"hash/crc32"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/metafile"
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

func (m *manifest) dropVolume(name string) {
	m.Volumes = slices.DeleteFunc(m.Volumes, func(vc VolumeConf) bool { return vc.Name == name })
}

// saveManifest makes the agent's lists durable, with what edit does to them; nil: as
// they are. Called with manifestMu held, and without mu: nothing else waits for the disk.
func (a *Agent) saveManifest(edit func(*manifest)) error {
	m := manifest{Version: metaVersion, Agent: a.opts.Name, Journal: a.journal}
	a.mu.Lock()
	for _, s := range a.streams {
		m.Streams = append(m.Streams, s.conf)
	}
	for _, v := range a.volumes {
		m.Volumes = append(m.Volumes, v.conf)
	}
	a.mu.Unlock()
	if edit != nil {
		edit(&m)
	}
	slices.SortFunc(m.Streams, func(x, y StreamConf) int { return int(x.Number) - int(y.Number) })
	slices.SortFunc(m.Volumes, func(x, y VolumeConf) int { return int(x.Number) - int(y.Number) })
	return saveMeta(a.opts.FS, a.manifestPath(), m)
}

// changeVolume changes what the manifest says of a volume, and then the volume's conf
// alike. One that was removed meanwhile does not come back.
func (a *Agent) changeVolume(v *Volume, change func(*VolumeConf)) error {
	a.manifestMu.Lock()
	defer a.manifestMu.Unlock()
	err := a.saveManifest(func(m *manifest) {
		for i := range m.Volumes {
			if m.Volumes[i].Name == v.conf.Name {
				change(&m.Volumes[i])
			}
		}
	})
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	change(&v.conf)
	return nil
}

// PinJournal takes a journal on other hosts for this agent's, once for all: another
// one that answers at its addresses is refused.
func (a *Agent) PinJournal(id string) error {
	a.manifestMu.Lock()
	defer a.manifestMu.Unlock()
	switch a.journal {
	case id:
		return nil
	case "":
		if err := a.saveManifest(func(m *manifest) { m.Journal = id }); err != nil {
			return err
		}
		a.journal = id
		return nil
	}
	return fail.New(fail.Refused, "use", "journal "+id, "this agent belongs to journal "+a.journal).
		WithHint("was a member begun anew by `pollux journal init`? Wipe it, and let it join the others")
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
	// Gone sums up the frames that left the WAL before the targets had them.
	Gone *lagMark `json:"gone,omitempty"`
}

const metaVersion = metafile.Version

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// saveMeta and loadMeta are metafile's, of an agent's records.
func saveMeta(fs vfs.FS, path string, v any) error { return metafile.Save(fs, path, v) }

func loadMeta(fs vfs.FS, path string, v any) (found bool, err error) {
	return metafile.Load(fs, path, "restore this host's volumes from the object store", v)
}

// VolumesIn names the volumes of the agent whose state directory is dir, without opening it;
// none where there is no agent. Errors: fail.Damaged, fail.Unsupported.
func VolumesIn(fs vfs.FS, dir string) (names []string, err error) {
	var m manifest
	a := &Agent{opts: Options{StateDir: dir}}
	if _, err := loadMeta(fs, a.manifestPath(), &m); err != nil {
		return nil, err
	}
	for i := range m.Volumes {
		names = append(names, m.Volumes[i].Name)
	}
	return names, nil
}
