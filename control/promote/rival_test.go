package promote

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/node"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// unheard is a store of which the first reply to a create in the log does not come back.
type unheard struct {
	objstore.Store
	lost *bool
}

var errUnheard = fail.New(fail.Retry, "create", "", "no reply")

func (u unheard) Create(ctx context.Context, name string, body []byte) error {
	err := u.Store.Create(ctx, name, body)
	if err == nil && strings.HasPrefix(name, "log/") && !*u.lost {
		*u.lost = true
		return errUnheard
	}
	return err
}

// without is options that do not reach a target.
func without(o Options, target string) Options {
	plain := o.Open
	o.Open = func(ctx context.Context, t config.Target) (objstore.Store, func(), error) {
		if t.Name == target {
			return nil, nil, fail.New(fail.Retry, "open", t.Name, "it does not answer")
		}
		return plain(ctx, t)
	}
	return o
}

// twoLogs are a site that is lost and options for hosts that know two targets, far and second.
func (s *sites) twoLogs() (options func(host, site string) Options) {
	s.t.Helper()
	second := filepath.Join(s.dir, "second")
	if err := os.Mkdir(second, 0o755); err != nil {
		s.t.Fatal(err)
	}
	options = func(host, site string) Options {
		o := s.options(s.conf(host, site))
		more := o.Conf.Journal.Targets[0]
		more.Name, more.Site, more.URL = "second", "daegu", "file://"+second
		o.Conf.Journal.Targets = append(o.Conf.Journal.Targets, more)
		return o
	}
	a := options("host-a", "seoul").Conf
	d := s.start(a)
	s.call(a, api.VerbGroupPut, api.GroupPut{Name: "g", Create: true})
	s.call(a, api.VerbVolumeCreate, api.VolumeCreate{Name: "v", Group: "g", SizeBytes: 1 << 20})
	s.write(a, 0, 'A')
	s.drained(a)
	if err := d.Close(); err != nil {
		s.t.Fatal(err)
	}
	return options
}

// TestRivalBehind: a site fences its log, and stops; meanwhile another one takes the journal over under
// the same epoch with a log of its own, and brings this one in line. The first one finds that behind
// its fence, whether it reaches the other log or not.
func TestRivalBehind(t *testing.T) {
	s := newSites(t)
	options := s.twoLogs()
	b, c := options("host-b", "busan"), options("host-c", "daegu")
	cut, lost := b, false
	cut.Open = func(ctx context.Context, t config.Target) (objstore.Store, func(), error) {
		st, done, err := b.Open(ctx, t)
		return unheard{st, &lost}, done, err
	}
	if _, err := Force(t.Context(), cut); !fail.Is(err, fail.Retry) || !lost {
		t.Fatalf("not cut short: %v", err)
	}
	if rep, err := Force(t.Context(), without(c, "far")); err != nil || rep.Target != "second" || rep.Epoch != 2 {
		t.Fatalf("%+v, %v", rep, err)
	}
	d := s.start(c.Conf)
	defer d.Close()
	s.write(c.Conf, 65536, 'C')
	s.seated("daegu")
	for range 2 {
		rep, err := Force(t.Context(), without(b, "second"))
		if !fail.Is(err, fail.Fenced) || fail.HintOf(err) == "" {
			t.Fatalf("it goes on: %+v, %v", rep, err)
		}
	}
	if _, err := node.Start(t.Context(), b.Conf, "test", b.Logger); !fail.Is(err, fail.Refused) {
		t.Errorf("its agent starts: %v", err)
	}
}

// seated waits until the first target's log says that the seat is at a site.
func (s *sites) seated(site string) {
	s.t.Helper()
	st, err := objstore.Open(s.t.Context(), "file://"+s.store, objstore.Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	for range 1000 {
		if l, err := twin.Open(s.t.Context(), st, nil); err == nil && l.State.Seat.Site == site {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.t.Fatalf("the log does not say that the seat is at %s", site)
}
