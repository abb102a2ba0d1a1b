package promote

import (
	"testing"

	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/replicator/state"
)

// TestAckHere: what a group waits for at the new seat. A forced failover lowers what cannot be kept without
// the lost site; a hand-over lowers `remote` only where no other site has a required target.
func TestAckHere(t *testing.T) {
	here := config.Target{Name: "here", Site: "busan"}
	there := config.Target{Name: "there", Site: "seoul"}
	optional := there
	optional.Optional = true
	for _, tt := range []struct {
		name    string
		ack     string
		planned bool
		keep    bool
		other   config.Target
		taken   string // whose log
		want    string
	}{
		{"local stays", "local", false, false, there, "here", "local"},
		{"forced, the log at this site", "remote", false, false, there, "here", "local"},
		{"forced, the log at another", "remote", false, false, there, "there", "remote"},
		{"forced, to be kept", "remote", false, true, there, "here", "remote"},
		{"handed over, the log at this site", "remote", true, false, there, "here", "remote"},
		{"handed over, the other is optional", "remote", true, false, optional, "here", "local"},
		{"handed over, a journal of one member", "journal", true, false, there, "here", "local"},
	} {
		r := &run{conf: &config.Agent{Site: "busan"}, found: &found{target: config.Target{Name: tt.taken}}}
		r.conf.Journal.Targets = []config.Target{here, tt.other}
		r.KeepAck = tt.keep
		if tt.planned {
			r.HandOver = &HandOver{}
		}
		got, was := r.ackHere(&state.Group{Ack: tt.ack})
		if got != tt.want || (was != "") != (got != tt.ack) {
			t.Errorf("%s: %s becomes %s (was %q), want %s", tt.name, tt.ack, got, was, tt.want)
		}
	}
}
