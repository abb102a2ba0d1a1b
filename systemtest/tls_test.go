package systemtest

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/pki"
	"github.com/pollux-dr/pollux/transport"
)

// TestCertificates runs a journal and an agent with certificates, and tries every
// door with the wrong one.
func TestCertificates(t *testing.T) {
	c := newCluster(t, 3)
	c.secure()
	c.form()
	s := newSite(t, siteConf{journal: c.addresses(), url: c.store, more: c.tls("agent", "host1")})
	s.mustStart()
	s.volume("g", "v", "16MiB")
	w := newWriter(s, "g", "v", 16<<20, newRand(t))
	w.connect()
	stop := w.background()
	w.progress(300)
	c.leader().kill()
	w.progress(300)
	stop()
	s.drained("g", time.Minute)
	w.checkNewest()
	lead := c.leader()

	// An operator on another host; a reader; an agent in an operator's place.
	call := func(role, name, verb string, req, resp any) error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		return api.DialTLS(lead.control, c.files(role, name)).Call(ctx, verb, req, resp)
	}
	var members api.JournalMembers
	var st api.Status
	if err := call("reader", "nagios", api.VerbStatus, struct{}{}, &st); err != nil || !st.Journal.Leader {
		t.Errorf("a reader looks: %v, %+v", err, st.Journal)
	}
	if err := call("reader", "nagios", api.VerbJournalTransfer, api.JournalTransfer{}, &members); !fail.Is(err,
		fail.Denied) {
		t.Errorf("a reader changes: %v", err)
	}
	if err := call("agent", "host1", api.VerbJournalRemove, api.JournalRemove{Member: lead.dialled},
		&members); !fail.Is(err, fail.Denied) {
		t.Errorf("an agent changes: %v", err)
	}
	if err := call("operator", "kim", api.VerbJournalTransfer, api.JournalTransfer{}, &members); err != nil {
		t.Errorf("an operator changes: %v", err)
	}
	until(t, time.Minute, "the audit names the operator", func() error {
		out := c.pollux("audit", "ls", "--socket", c.leader().socket())
		if strings.Contains(out, "operator/kim") && strings.Contains(out, "journal-transfer") &&
			strings.Contains(out, "volume-create") {
			return nil
		}
		return fail.New(fail.NotFound, "find", "entry", out)
	})

	// An agent of another name, one without a certificate, an agent as a member.
	address := c.leader().dialled
	first := func(conn net.Conn, err error, typ change.MessageType, msg any) error {
		if err != nil {
			return err
		}
		tc := transport.NewConn(conn, 5*time.Second)
		tc.SetIdleLimit(5 * time.Second)
		defer tc.Close()
		if err := tc.Send(uint16(typ), change.Encode(msg)); err != nil {
			return err
		}
		got, b, err := tc.Recv()
		if err != nil {
			return err
		}
		var wel change.Welcome
		if change.MessageType(got) == change.MsgWelcome && change.Decode(b, &wel) == nil {
			return wel.Error.Err("", "")
		}
		return nil
	}
	dial := func(f pki.Files) (net.Conn, error) { return f.Dial(t.Context(), address) }
	conn, err := dial(c.files("agent", "host2"))
	if err := first(conn, err, change.MsgHello, change.Hello{Agent: "host1"}); !fail.Is(err, fail.Denied) {
		t.Errorf("host2 calls itself host1: %v", err)
	}
	conn, err = dial(c.files("agent", "host2"))
	if err := first(conn, err, change.MsgHello, change.Hello{Agent: "host2"}); err != nil {
		t.Errorf("host2 as itself: %v", err)
	}
	conn, err = dial(c.files("agent", "host1"))
	if err := first(conn, err, change.MsgRaft, change.RaftHello{}); !fail.Is(err, fail.Denied) {
		t.Errorf("an agent as a member: %v", err)
	}
	conn, err = dial(pki.Files{})
	if err := first(conn, err, change.MsgHello, change.Hello{Agent: "host1"}); err == nil {
		t.Error("someone without a certificate was heard")
	}
}
