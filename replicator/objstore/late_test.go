package objstore_test

import (
	"context"
	"errors"
	"testing"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/objstore/objstoretest"
)

func TestLate(t *testing.T) {
	objstoretest.Run(t, func(t *testing.T) objstore.Store {
		url := "file://" + t.TempDir() + "/late"
		there := false
		s := objstore.Late(url, func(ctx context.Context) (objstore.Store, error) {
			if !there {
				return nil, (&fail.Error{Kind: fail.NotFound, Op: "open", Err: errors.New("not mounted")}).
					WithHint("mount it")
			}
			return objstore.Open(ctx, url, objstore.Options{})
		})
		for what, err := range map[string]error{
			"create": s.Create(t.Context(), "a", nil),
			"delete": s.Delete(t.Context(), "a"),
			"list":   s.List(t.Context(), "", "", func(objstore.Info) error { return nil }),
		} {
			if !fail.Is(err, fail.Retry) || fail.HintOf(err) != "mount it" {
				t.Errorf("%s: %v", what, err)
			}
		}
		there = true
		return s
	})
}
