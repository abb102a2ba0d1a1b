package twosites

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
)

// Failover is what is looked at of the report of `pollux failover --force`.
type Failover struct {
	Epoch  uint64 `json:"epoch"`
	Groups []struct {
		Name string `json:"name"`
		LSN  uint64 `json:"lsn"`
		Ack  string `json:"ack"`
	} `json:"groups"`
	Volumes []struct {
		Name string `json:"name"`
		Warm bool   `json:"warm"`
	} `json:"volumes"`
	RPOSeconds float64 `json:"rpo_seconds"`
	RTOSeconds float64 `json:"rto_seconds"`
}

// LSN is where a group went on.
func (f *Failover) LSN(group string) uint64 {
	for i := range f.Groups {
		if f.Groups[i].Name == group {
			return f.Groups[i].LSN
		}
	}
	return 0
}

// Failback is what is looked at of the report of `pollux failback`.
type Failback struct {
	Branch string `json:"branch"`
	Groups []struct {
		Name     string `json:"name"`
		PointLSN uint64 `json:"point_lsn"`
		LastLSN  uint64 `json:"last_lsn"`
		Compare  bool   `json:"compare"`
	} `json:"groups"`
	DivergentBytes int64   `json:"divergent_bytes"`
	PayloadBytes   int64   `json:"payload_bytes"`
	Seconds        float64 `json:"seconds"`
}

// ForceFailover takes the journal over at a host that runs as a standby.
func (h *Host) ForceFailover(ctx context.Context) (*Failover, error) {
	rep := &Failover{}
	return rep, h.Verb(ctx, rep, "failover", "--force", "--yes", "-c", h.Config())
}

// StartCold takes the journal over at a host that has nothing, and serves it in the same process.
func (h *Host) StartCold() error { return h.Start("failover", "--force", "--yes", "--serve") }

// HandOver hands the journal of a host that is its seat over to another's site.
func (h *Host) HandOver(ctx context.Context, to *Host) (*api.HandOverReport, error) {
	rep := &api.HandOverReport{}
	return rep, h.Verb(ctx, rep, "failover", "--planned", "--to", to.Site)
}

// Failback makes a former seat, whose agent does not run, a standby's host.
func (h *Host) Failback(ctx context.Context) (*Failback, error) {
	rep := &Failback{}
	return rep, h.Verb(ctx, rep, "failback", "--yes", "-c", h.Config())
}

// VerifyRestore restores a volume from the store alone, and compares it with the model, whose last
// request must be in it.
func (v *Volume) VerifyRestore(ctx context.Context, h *Host) error {
	path := filepath.Join(h.dir(), "restored-"+v.Name)
	var out struct {
		LSN uint64 `json:"lsn"`
	}
	defer os.Remove(path)
	if err := h.StoreVerb(ctx, &out, "restore", v.Name, "-o", path); err != nil {
		return err
	}
	if sent := v.Model.Sent(); out.LSN != sent {
		return fail.New(fail.Damaged, "restore", "volume "+v.Name, fmt.Sprintf("the newest point is LSN %d, and the "+
			"store was said to have %d", out.LSN, sent))
	}
	return v.Model.CompareFile(ctx, path, out.LSN)
}

// VerifyBranch compares a volume of a branch at its host with what that host had last.
func (v *Volume) VerifyBranch(ctx context.Context, h *Host, branch string, had *Model, lsn uint64) error {
	conn, end, err := h.Mount(ctx, "branch", "mount", branch, v.Name, "-c", h.Config())
	if err != nil {
		return err
	}
	defer end()
	return had.Compare(ctx, "branch "+branch+", volume "+v.Name, Served(ctx, conn), lsn)
}
