package failover

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
)

// former is the standby that a seat has become: it was handed over to busan.
type former struct{ api.StandbyService }

var report = api.HandOverReport{ID: "1", To: "busan", Host: "host-b", Target: "far", Epoch: 1, Index: 17,
	HeldSeconds: 0.2, Outcome: "taken up"}

func (former) HandOver(_ context.Context, r api.HandOver) (api.HandOverReport, error) {
	if r.To != "busan" {
		return api.HandOverReport{}, fail.New(fail.Refused, "hand over to", r.To, "the seat is at busan")
	}
	return report, nil
}

// TestPlannedAgain: a hand-over that is asked for again, at the standby that the seat has become, says
// that it is done as it did at first, with --dry-run too.
func TestPlannedAgain(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: api.StandbyHandler(former{}, nil)}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		c := New("test")
		c.SetOut(&out)
		c.SetErr(&out)
		c.SilenceErrors, c.SilenceUsage = true, true
		c.SetArgs(append([]string{"--planned", "--socket", socket, "--to"}, args...))
		err := c.ExecuteContext(t.Context())
		return out.String(), err
	}
	for _, args := range [][]string{{"busan"}, {"busan", "--dry-run"}} {
		text, err := run(args...)
		if err != nil || !strings.Contains(text, "was handed over to host host-b at busan, behind journal index 17") {
			t.Errorf("%v: %q, %v", args, text, err)
		}
	}
	var got api.HandOverReport
	text, err := run("busan", "--json")
	if err == nil {
		err = json.Unmarshal([]byte(text), &got)
	}
	if err != nil || got != report {
		t.Errorf("--json: %q, %v", text, err)
	}
	if _, err := run("daegu"); fail.ExitCode(err) != 5 || !strings.Contains(err.Error(), "the seat is at busan") {
		t.Errorf("elsewhere: %v", err)
	}
}
