package bench

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
)

// maxVoters bounds --voters.
const maxVoters = 5

// voters is a journal of several processes on loopback, with the target that an
// agent of that name would have.
type voters struct {
	addresses []string
	store     string // URL of its target
	members   []*proc
}

func (v *voters) stop() {
	for _, m := range v.members {
		m.stop(10 * time.Second)
	}
}

// startVoters runs a journal of n members and waits until each has a vote.
func (s *session) startVoters(ctx context.Context, name string, n int, rate float64) (*voters, error) {
	v := &voters{store: s.prefix(name)}
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fail.Wrap(fail.Internal, "find", "a free port", err)
		}
		v.addresses = append(v.addresses, l.Addr().String())
		_ = l.Close()
	}
	var first *api.Client
	for i, address := range v.addresses {
		dir := filepath.Join(s.dir, fmt.Sprintf("%s-m%d", name, i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			v.stop()
			return nil, fail.Wrap(fail.Denied, "create", dir, err)
		}
		conf := filepath.Join(dir, "journal.yaml")
		y := fmt.Sprintf("name: m%d\nstate: %s\nsocket: %s\nlisten: %s\npeers: [%s]\nlog: {level: warn}\n%s", i,
			quoted(filepath.Join(dir, "state")),
			quoted(filepath.Join(dir, "control.sock")), address, strings.Join(v.addresses, ", "),
			s.targetYAML("", v.store, rate))
		if err := os.WriteFile(conf, []byte(y), 0o600); err != nil {
			v.stop()
			return nil, fail.Wrap(fail.Denied, "create", conf, err)
		}
		m, err := startProc(s.dir, fmt.Sprintf("%s-m%d", name, i), exec.Command(s.o.Program, "journal", "-c", conf))
		if err != nil {
			v.stop()
			return nil, err
		}
		v.members = append(v.members, m)
		client := api.Dial(filepath.Join(dir, "control.sock"))
		var l api.JournalMembers
		if err := try(ctx, m, func() error {
			return client.Call(ctx, api.VerbJournalList, struct{}{}, &l)
		}); err != nil {
			v.stop()
			return nil, err
		}
		if i == 0 {
			first = client
			if err := first.Call(ctx, api.VerbJournalInit, api.JournalInit{}, &l); err != nil {
				v.stop()
				return nil, err
			}
		}
	}
	err := try(ctx, v.members[0], func() error {
		var st api.Status
		if err := first.Call(ctx, api.VerbStatus, struct{}{}, &st); err != nil {
			return err
		}
		if st.Journal.Voters < n {
			return fail.New(fail.Retry, "wait for", "voters", fmt.Sprintf("%d of %d", st.Journal.Voters, n))
		}
		return nil
	})
	if err != nil {
		v.stop()
		return nil, err
	}
	return v, nil
}
