package node

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestForeignRuntimeDir: a runtime directory that another user may have made, or can
// write to, is refused by name, and nothing is made in it.
func TestForeignRuntimeDir(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"everybody may write to it": func(path string) error { return os.Chmod(path, 0o777) },
		"a symbolic link": func(path string) error {
			if err := os.Rename(path, path+".real"); err != nil {
				return err
			}
			return os.Symlink(path+".real", path)
		},
	} {
		t.Run(name, func(t *testing.T) {
			conf, _ := regressConf(t)
			t.Cleanup(func() { _ = os.RemoveAll(conf.Runtime + ".real") })
			if err := make(conf.Runtime); err != nil {
				t.Fatal(err)
			}
			d, err := Start(context.Background(), conf, "test", slog.New(slog.DiscardHandler))
			if err == nil {
				_ = d.Close()
			}
			if !fail.Is(err, fail.Refused) || !strings.Contains(err.Error(), conf.Runtime) || fail.HintOf(err) == "" {
				t.Errorf("%v", err)
			}
			if made, err := os.ReadDir(conf.Runtime); err != nil || len(made) != 0 {
				t.Errorf("in it are %v, %v", made, err)
			}
		})
	}
}
