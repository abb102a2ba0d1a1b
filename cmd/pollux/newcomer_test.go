package main

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
)

// emptyAgent has one group and one volume, and does nothing but find or not find.
type emptyAgent struct{ api.Service }

func find(known bool, what string) error {
	if known {
		return nil
	}
	return fail.New(fail.NotFound, "find", what, "no such one")
}

func (emptyAgent) GroupPut(_ context.Context, r api.GroupPut) (api.Group, error) {
	return api.Group{Name: r.Name}, find(r.Name == "g", "group")
}

func (emptyAgent) VolumeCreate(_ context.Context, r api.VolumeCreate) (api.Volume, error) {
	return api.Volume{Name: r.Name}, nil
}

func (emptyAgent) VolumeRemove(_ context.Context, r api.VolumeRemove) (api.Volume, error) {
	return api.Volume{Name: r.Name}, find(r.Name == "v", "volume")
}

func (emptyAgent) VolumeAccept(_ context.Context, r api.VolumeAccept) (api.Volume, error) {
	return api.Volume{Name: r.Name}, find(r.Name == "v", "volume")
}

func (emptyAgent) BookmarkRemove(_ context.Context, r api.BookmarkRemove) (api.Bookmark, error) {
	return api.Bookmark{Name: r.Name}, find(r.Name == "b", "bookmark")
}

func (emptyAgent) BookmarkAdd(_ context.Context, r api.BookmarkAdd) (api.Bookmark, error) {
	return api.Bookmark{Name: r.Name}, nil
}

// The verbs about members answer with one.
func (emptyAgent) JournalList(context.Context, struct{}) (api.JournalMembers, error) {
	return api.JournalMembers{Members: []api.JournalMember{{Address: "h:1"}}}, nil
}

func (a emptyAgent) JournalInit(ctx context.Context, _ api.JournalInit) (api.JournalMembers, error) {
	return a.JournalList(ctx, struct{}{})
}

func (a emptyAgent) JournalJoin(ctx context.Context, _ api.JournalJoin) (api.JournalMembers, error) {
	return a.JournalList(ctx, struct{}{})
}

func (a emptyAgent) JournalRemove(ctx context.Context, _ api.JournalRemove) (api.JournalMembers, error) {
	return a.JournalList(ctx, struct{}{})
}

func (a emptyAgent) JournalTransfer(ctx context.Context, _ api.JournalTransfer) (api.JournalMembers, error) {
	return a.JournalList(ctx, struct{}{})
}

// TestDryRunSaysSo: what is shown is what the real thing shows, but for a line.
func TestDryRunSaysSo(t *testing.T) {
	socket := serveAgent(t, emptyAgent{})
	const says = "nothing was changed"
	for _, line := range []string{"group set g --ack local", "group pause g", "group create g",
		"volume create v --group g --size 1MiB",
		"volume rm v --yes", "volume accept v --yes", "bookmark add b --group g", "bookmark rm b --group g --yes",
		"journal init", "journal join h:1", "journal remove h:1 --yes", "journal transfer h:1"} {
		args := append(strings.Fields(line), "--socket", socket)
		if out, err := runRoot(t, args...); err != nil || strings.Contains(out, says) {
			t.Errorf("%s: %q, %v", line, out, err)
		}
		if out, err := runRoot(t, append(args, "--dry-run")...); err != nil || !strings.Contains(out, says) {
			t.Errorf("%s --dry-run: %q, %v", line, out, err)
		}
	}
}

// TestLooksBeforeItAsks: nobody confirms what then is not there.
func TestLooksBeforeItAsks(t *testing.T) {
	socket := serveAgent(t, emptyAgent{})
	for _, line := range []string{"bookmark rm nope --group g", "volume rm nope", "volume accept nope",
		"group set nope --retention every_write=24h,daily=7d"} {
		if out, err := runRoot(t, append(strings.Fields(line), "--socket", socket)...); !fail.Is(err, fail.NotFound) {
			t.Errorf("%s: %v, %q", line, err, out)
		}
	}
}

// TestAsksWhereThereIsNoTerminal: what is there is not removed unasked.
func TestAsksWhereThereIsNoTerminal(t *testing.T) {
	_, err := runRoot(t, "volume", "rm", "v", "--socket", serveAgent(t, emptyAgent{}))
	if err == nil || !strings.Contains(fail.Explain(err), "volume rm v: not confirmed") ||
		!strings.Contains(fail.Explain(err), "add --yes") {
		t.Errorf("%v", err)
	}
}

// TestErrorsNameTheFlag: a mistake in a flag is told with the flag's name.
func TestErrorsNameTheFlag(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, c := range [][2]string{
		{"mount v --store file:///nowhere --nbd 127.0.0.1", "--nbd 127.0.0.1"},
		{"mount v --store file:///nowhere --nbd localhost:10809", "--nbd localhost:10809"},
		{"mount v --store file:///nowhere --nbd ::1", "--nbd ::1"},
		{"status --address h:1", "no --cert"},
		{"status --address h:1 --cert c", "no --key"},
		{"status --address h:1 --cert c --key k", "no --ca"},
	} {
		out, err := runRoot(t, strings.Fields(c[0])...)
		if !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), c[1]) {
			t.Errorf("%s: %v, %q", c[0], err, out)
		}
	}
	if left, _ := os.ReadDir("."); len(left) > 0 {
		t.Errorf("%v was made", left)
	}
}
