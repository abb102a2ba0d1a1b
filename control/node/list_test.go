package node

import (
	"log/slog"
	"os"
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
	svc := d.service()
	if _, err := svc.BookmarkList(t.Context(), api.List{Group: "nope"}); !fail.Is(err, fail.NotFound) {
		t.Errorf("bookmarks: %v", err)
	}
	if _, err := svc.VolumeList(t.Context(), api.List{Group: "nope"}); !fail.Is(err, fail.NotFound) {
		t.Errorf("volumes: %v", err)
	}
	if _, err := svc.GroupList(t.Context(), api.List{Group: "nope"}); !fail.Is(err, fail.NotFound) {
		t.Errorf("groups: %v", err)
	}
	if _, err := svc.BookmarkList(t.Context(), api.List{}); err != nil {
		t.Errorf("all bookmarks: %v", err)
	}
}

// TestStateIsAFile: the setting is wrong, and no permission is missing.
func TestStateIsAFile(t *testing.T) {
	conf, _ := regressConf(t)
	if err := os.WriteFile(conf.State, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), conf, "t", slog.New(slog.DiscardHandler)); !fail.Is(err, fail.Invalid) {
		t.Errorf("%v, kind %v", err, fail.KindOf(err))
	}
}
