package systemtest

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
)

// TestDryRun: what a verb shows with --dry-run is what it then does, for each that has
// the flag. Those about a journal's members and a lost host are tried with a cluster.
func TestDryRun(t *testing.T) {
	s, _ := newSmall(t)
	file := func(name string) string { return filepath.Join(s.dir, name) }
	store := func(args string) string { return args + " " + strings.Join(s.storeArgs(), " ") }
	s.verb("bookmark", "add", "before", "--group", "g")
	s.drained("g", time.Minute)
	for _, args := range []string{
		"group create h --rpo-target 30s",
		"group set h --ack remote",
		"group set h --retention every_write=1d --yes",
		"group pause h",
		"group resume h",
		"volume create w --group h --size 2MiB",
		"bookmark add b --group h",
		"bookmark rm b --group h --yes",
		store("restore v --at before -o " + file("v.img")),
		store("restore v -o " + file("v.img") + " --overwrite --yes"),
		store("clone v v2 --at before --group g --backing " + file("v2.img")),
		"volume rm w --yes",
		store("gc"), // a second one, of a first that made the catalog
	} {
		if strings.HasPrefix(args, "gc") {
			s.verb(strings.Fields(args)...)
		}
		shown := s.verb(append(strings.Fields(args), "--dry-run")...)
		sameRun(t, args, shown, s.verb(strings.Fields(args)...))
	}
}

// shownToRecover is what recover says that it would do, with nothing made for it.
func (s *site) shownToRecover(t *testing.T, args []string) map[string]any {
	t.Helper()
	_, before := os.Stat(s.conf.state)
	var shown map[string]any
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		shown = s.verb(append(args, "--dry-run")...)
		if shown["behind_bytes"] == nil || time.Now().After(end) {
			break // the store has what the journal has, and nobody writes
		}
	}
	if _, after := os.Stat(s.conf.state); os.IsNotExist(before) != os.IsNotExist(after) {
		t.Error("a dry run made the state directory")
	}
	return shown
}

// sameRun compares what a dry run and then the run said, but for what only the run can
// know, and what goes on meanwhile.
func sameRun(t *testing.T, what string, shown, done map[string]any) {
	t.Helper()
	for _, v := range []map[string]any{shown, done} {
		forget(v)
	}
	if !reflect.DeepEqual(shown, done) {
		t.Errorf("%s: the dry run showed\n%v\nand the run did\n%v", what, shown, done)
	}
}

// forget takes away how long it took, how far it is in the store, and how much was read
// and written so far.
func forget(v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range []string{"dry_run", "seconds", "time", "durable", "ready", "read_bytes", "written_bytes",
			"zeroed_bytes", "objections", "position", "catalog"} {
			delete(v, k)
		}
		for _, x := range v {
			forget(x)
		}
	case []any:
		for _, x := range v {
			forget(x)
		}
	}
}

// TestMembersDryRun: the same for a journal's members: what the run would refuse is
// refused, and what would be left is shown.
func TestMembersDryRun(t *testing.T) {
	c := newCluster(t, 3)
	c.form()
	lead := c.leader()
	follower := c.members[(lead.n+1)%3].dialled
	var l api.JournalMembers
	for _, x := range []struct {
		verb string
		req  any
		want fail.Kind
	}{
		{api.VerbJournalInit, api.JournalInit{DryRun: true}, fail.Exists},
		{api.VerbJournalRemove, api.JournalRemove{Member: "nobody", DryRun: true}, fail.NotFound},
		{api.VerbJournalRemove, api.JournalRemove{Member: lead.dialled, DryRun: true}, fail.Refused},
		{api.VerbJournalTransfer, api.JournalTransfer{Member: "nobody", DryRun: true}, fail.NotFound},
	} {
		if err := lead.call(x.verb, x.req, &l); !fail.Is(err, x.want) {
			t.Errorf("%s %+v: %v, want %v", x.verb, x.req, err, x.want)
		}
	}
	if err := lead.call(api.VerbJournalTransfer, api.JournalTransfer{Member: follower, DryRun: true}, &l); err != nil ||
		l.Leader != follower {
		t.Errorf("transfer: %v, %+v", err, l)
	}
	l = api.JournalMembers{}
	if err := lead.call(api.VerbJournalRemove, api.JournalRemove{Member: follower, DryRun: true}, &l); err != nil ||
		len(l.Members) != 2 {
		t.Errorf("remove: %v, %+v", err, l)
	}
	if l, err := lead.list(); err != nil || len(l.Members) != 3 || l.Leader != lead.dialled {
		t.Errorf("a dry run changed something: %v, %+v", err, l)
	}
}
