package main

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/control/api"
)

func TestCheckStatus(t *testing.T) {
	now := time.Now()
	long := now.Add(-time.Hour)
	good := api.GroupStatus{Name: "g", State: "Replicating"}
	for name, c := range map[string]struct {
		st   api.Status
		err  error
		code int
		says string
	}{
		"good": {api.Status{Groups: []api.GroupStatus{good},
			Targets: []api.TargetStatus{{Name: "t", LastSuccess: &now}}}, nil, 0, "OK"},
		"certificate in 20 days": {api.Status{Groups: []api.GroupStatus{good},
			Certificates: []api.CertificateStatus{{File: "c.pem", Warning: "it expires"}}}, nil, 1, "c.pem"},
		"certificate in 2 days": {api.Status{Groups: []api.GroupStatus{good}, Certificates: []api.CertificateStatus{
			{File: "c.pem", Warning: "it expires", Urgent: true}}}, nil, 2, "c.pem"},
		"no groups": {api.Status{}, nil, 0, "no groups"},
		"lagging": {api.Status{Groups: []api.GroupStatus{good, {Name: "h", State: "Lagging"}}}, nil, 1,
			"group h"},
		"all are well": {api.Status{Groups: []api.GroupStatus{good,
			{Name: "h", State: "Replicating", LagSeconds: 2.5, RPOTargetSeconds: 10}}}, nil, 0,
			"OK: all groups replicate: g, h; lag up to 2.500 s, of group h (target 10 s)"},
		"all that are not": {api.Status{Groups: []api.GroupStatus{good,
			{Name: "h", State: "Lagging"}, {Name: "i", State: "Fenced"}}}, nil, 2,
			"CRITICAL: 2 of 3 groups: group i is Fenced, lag 0.000 s (target 0 s); group h is Lagging"},
		"the worst first": {api.Status{Groups: []api.GroupStatus{{Name: "h", State: "Lagging"},
			{Name: "i", State: "Fenced", Reason: "why"}}}, nil, 2, "why"},
		"target fails a moment": {api.Status{Groups: []api.GroupStatus{good},
			Targets: []api.TargetStatus{{Name: "t", LastSuccess: &now, Error: "403"}}}, nil, 0, "OK"},
		"target fails for long": {api.Status{Groups: []api.GroupStatus{good},
			Targets: []api.TargetStatus{{Name: "t", LastSuccess: &long, Error: "403"}}}, nil, 1, "target t"},
		"target stopped": {
			api.Status{Targets: []api.TargetStatus{{Name: "t", Error: "it belongs to journal x", Stopped: true}}}, nil,
			2, "replication to target t has stopped: it belongs to journal x"},
		"optional one stopped": {api.Status{Targets: []api.TargetStatus{{Name: "t", Error: "fenced", Stopped: true,
			Optional: true}}}, nil, 1, "target t"},
		"target never worked": {api.Status{Groups: []api.GroupStatus{good},
			Targets: []api.TargetStatus{{Name: "t", Error: "403"}}}, nil, 1, "403"},
		"idle for long, no error": {api.Status{Groups: []api.GroupStatus{good},
			Targets: []api.TargetStatus{{Name: "t", LastSuccess: &long}}}, nil, 0, "OK"},
		"let go": {api.Status{Groups: []api.GroupStatus{good}, Targets: []api.TargetStatus{{Name: "t",
			LastSuccess: &now, State: "let go", Reason: "its share"}}}, nil, 1, "let go: its share"},
		"the agent does not reply": {api.Status{}, errors.New("no agent"), 2, "no agent"},
	} {
		var out bytes.Buffer
		err := checkStatus(&out, &cli.DaemonFlags{}, &c.st, c.err)
		code := 0
		var e exitCode
		if errors.As(err, &e) {
			code = int(e)
		}
		if code != c.code || !strings.Contains(out.String(), c.says) {
			t.Errorf("%s: exit %d, want %d; %q should say %q", name, code, c.code, out.String(), c.says)
		}
	}
}

// TestStatusShowsEachPart: of a group over several hosts each one's LSNs are shown, and none
// where they are not known.
func TestStatusShowsEachPart(t *testing.T) {
	last, durable := uint64(41), uint64(40)
	one := api.GroupStatus{Name: "one", LastLSN: 7,
		Streams: []api.StreamStatus{{Agent: "a", LastLSN: &last, DurableLSN: &durable}}}
	two := api.GroupStatus{Name: "two",
		Streams: []api.StreamStatus{{Agent: "a", LastLSN: &last, DurableLSN: &durable}, {Agent: "b"}}}
	var out strings.Builder
	printStatus(&out, &api.Status{Groups: []api.GroupStatus{one, two}})
	for want, times := range map[string]int{`(?m)^two +a +41 +40$`: 1,
		`(?m)^two +b +its host knows +its host knows$`: 1,
		`(?m)^one +a`: 0, `(?m)^two .* - +- +$`: 1} {
		if n := len(regexp.MustCompile(want).FindAllString(out.String(), -1)); n != times {
			t.Errorf("%q is there %d times in\n%s", want, n, out.String())
		}
	}
}
