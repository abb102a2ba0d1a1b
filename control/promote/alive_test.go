package promote

import (
	"context"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// racing is a store in which the former seat creates an object just before each of the first ones
// that are created through it.
type racing struct {
	objstore.Store
	first  func()
	races  *int // how many are left
	opened *int // how often the log was opened from its beginning
}

func (r racing) Create(ctx context.Context, name string, body []byte) error {
	if strings.HasPrefix(name, "log/") && *r.races > 0 {
		*r.races--
		r.first()
	}
	return r.Store.Create(ctx, name, body)
}

func (r racing) Read(ctx context.Context, name string, off, n int64, buf []byte) ([]byte, error) {
	if name == objlog.ObjectName(0) {
		*r.opened++
	}
	return r.Store.Read(ctx, name, off, n, buf)
}

// TestForceAlive: the former seat is not lost at all, and extends its log faster than that can be read
// anew. It is fenced all the same, and what it had written until then is kept.
func TestForceAlive(t *testing.T) {
	s := newSites(t)
	a, b := s.conf("host-a", "seoul"), s.conf("host-b", "busan")
	d := s.start(a)
	defer d.Close()
	s.call(a, api.VerbGroupPut, api.GroupPut{Name: "g", Create: true})
	s.call(a, api.VerbVolumeCreate, api.VolumeCreate{Name: "v", Group: "g", SizeBytes: 1 << 20})
	s.write(a, 0, 'A')
	s.drained(a)
	const races = 10
	left, opened, want := races, 0, map[int64]byte{0: 'A'}
	o := s.options(b)
	plain := o.Open
	o.Open = func(ctx context.Context, c config.Target) (objstore.Store, func(), error) {
		st, done, err := plain(ctx, c)
		return racing{Store: st, races: &left, opened: &opened, first: func() {
			off := int64(races-left) * 65536
			s.write(a, off, 'R')
			s.drained(a)
			want[off] = 'R'
		}}, done, err
	}
	rep, err := Force(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if left > 0 || opened > 5 {
		t.Errorf("the log was opened %d times in %d races: each time takes longer", opened, races-left)
	}
	db := s.start(b)
	defer db.Close()
	if g := s.awaitState(b, api.Unprotected, ""); g.LastLSN != rep.Groups[0].LSN || rep.Volumes[0].LSN != g.LastLSN {
		t.Errorf("reported %+v, %+v; it goes on from LSN %d", rep.Groups, rep.Volumes, g.LastLSN)
	}
	s.write(a, 1<<20-8192, 'L') // it does not know yet
	s.write(b, 1<<20-8192, 'C')
	s.awaitState(a, api.Superseded, "went on at busan")
	want[1<<20-8192] = 'C'
	s.wantAt(b, want)
}
