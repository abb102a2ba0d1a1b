package node

import (
	"log/slog"
	"testing"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
)

// TestListOfNoGroup: what a group that is not there has is not nothing.
func TestListOfNoGroup(t *testing.T) {
	conf, _ := regressConf(t)
	d, err := Start(t.Context(), conf, "t", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	svc := service{Daemon: d}
	if _, err := svc.BookmarkList(t.Context(), api.List{Group: "nope"}); !fail.Is(err, fail.NotFound) {
		t.Errorf("bookmarks: %v", err)
	}
	if _, err := svc.VolumeList(t.Context(), api.List{Group: "nope"}); !fail.Is(err, fail.NotFound) {
		t.Errorf("volumes: %v", err)
	}
	if _, err := svc.BookmarkList(t.Context(), api.List{}); err != nil {
		t.Errorf("all bookmarks: %v", err)
	}
}
