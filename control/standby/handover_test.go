package standby

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/node"
	"github.com/pollux-dr/pollux/internal/fail"
)

// TestHandOver: a standby that follows all of a journal takes a hand-over up, nothing is lost, and
// the former seat serves nothing; one that does not follow all refuses, and I/O goes on at the seat.
func TestHandOver(t *testing.T) {
	p := newPair(t)
	a := p.seat("v", "w")
	defer p.close(a)
	d := p.start(nil)
	defer p.close(d)
	p.eventually("the standby follows", func() error {
		for _, g := range d.engine.Status().Groups {
			if g.Name == "g" && g.State == "following" && len(g.Volumes) == 2 {
				return nil
			}
		}
		return fmt.Errorf("%+v", d.engine.Status())
	})
	p.write(p.a, "v", 65536, 'B')
	var out api.HandOverReport
	p.call(p.a, api.VerbHandOver, api.HandOver{To: "busan"}, &out)
	if out.Outcome != "taken up" || out.Host != "host-b" {
		t.Errorf("report %+v", out)
	}
	t.Logf("I/O waited for %.3f s at the seat", out.HeldSeconds)
	p.eventually("the volumes are served", func() error {
		if !d.isAgent() {
			return errors.New("it is no agent yet")
		}
		return nil
	})
	p.want(p.b, "v", map[int64]byte{0: 'A', 65536: 'B'})
	p.write(p.b, "v", 131072, 'C')
	p.want(p.b, "v", map[int64]byte{131072: 'C'})
}

// TestHandOverUnfollowed: who does not follow all of the journal cannot take it up, and says so.
func TestHandOverUnfollowed(t *testing.T) {
	p := newPair(t)
	a, err := node.Start(t.Context(), p.a, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer p.close(a)
	none := new(json.RawMessage)
	for v, g := range map[string]string{"v": "g", "cold": "other"} {
		p.call(p.a, api.VerbGroupPut, api.GroupPut{Name: g, Create: true}, none)
		p.call(p.a, api.VerbVolumeCreate, api.VolumeCreate{Name: v, Group: g, SizeBytes: 1 << 20}, none)
		p.write(p.a, v, 0, 'A')
	}
	d := p.start(nil)
	defer p.close(d)
	err = api.Dial(p.a.Socket).Call(t.Context(), api.VerbHandOver, api.HandOver{To: "busan"}, none)
	if !fail.Is(err, fail.Refused) || !strings.Contains(err.Error(), "does not follow cold") {
		t.Errorf("%v", err)
	}
	p.write(p.a, "v", 65536, 'B')
}
