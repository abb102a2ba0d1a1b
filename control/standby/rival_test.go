package standby

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/promote"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
)

// TestHandOverRival: another site has taken the journal by force with a log that the seat does not reach
// any more. The site to which it hands over does, and does not take it up: both would have the journal.
func TestHandOverRival(t *testing.T) {
	p := newPair(t)
	second := filepath.Join(p.dir, "second")
	link := second + "-far"
	if err := os.Mkdir(second, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(second, link); err != nil {
		t.Fatal(err)
	}
	both := func(c *config.Agent, path string) *config.Agent {
		more := c.Journal.Targets[0]
		more.Name, more.Site, more.URL = "second", "daegu", "file://"+path
		c.Journal.Targets = append(c.Journal.Targets, more)
		c.Standby.Target = "far"
		return c
	}
	both(p.a, link)
	both(p.b, second)
	a := p.seat("v", "w")
	defer p.close(a)
	d := p.start(nil)
	defer p.close(d)
	p.follows(d, 2)
	p.drained(p.a)
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	o := p.options()
	o.Conf, o.Target = both(p.conf("c", "daegu", ""), second), "second"
	if rep, err := promote.Force(t.Context(), o); err != nil || rep.Epoch != 2 {
		t.Fatalf("%+v, %v", rep, err)
	}
	var out api.HandOverReport
	err := api.Dial(p.a.Socket).Call(t.Context(), api.VerbHandOver, api.HandOver{To: "busan"}, &out)
	if !fail.Is(err, fail.Refused) || !strings.Contains(err.Error(), "another site has fenced it under epoch 2") {
		t.Errorf("%+v, %v", out, err)
	}
	if d.isAgent() {
		t.Error("it was taken up")
	}
}
