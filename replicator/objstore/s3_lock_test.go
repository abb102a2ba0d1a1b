package objstore_test

import (
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// TestS3Lock asks real servers for Object Lock: by the store's rule, by the bucket's,
// and without either in a bucket with versions.
func TestS3Lock(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			srv := startServer(t, kind)
			for bucket, days := range map[string]uint{"asked": 0, "ruled": 3} {
				if err := srv.CreateLockedBucket(t.Context(), bucket, objstore.Compliance, days); err != nil {
					t.Fatal(err)
				}
			}
			open := func(bucket string, rule objstore.LockRule) objstore.Store {
				s, err := objstore.Open(t.Context(), "s3://"+bucket+"/p", objstore.Options{Endpoint: srv.Endpoint, CredentialsFile: srv.CredentialsFile, Lock: rule})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = s.Close() })
				return s
			}
			asked := objstore.LockRule{Mode: objstore.Compliance, For: 2 * time.Hour}
			t.Run("Asked", func(t *testing.T) { testLocked(t, open("asked", asked), "log/1", asked.For) })
			t.Run("Ruled", func(t *testing.T) { testLocked(t, open("ruled", objstore.LockRule{}), "log/2", 3*24*time.Hour) })
			t.Run("Versions", func(t *testing.T) { testVersions(t, open("asked", objstore.LockRule{})) })
			t.Run("Plain", func(t *testing.T) {
				err := open(bucket, asked).Create(t.Context(), "log/3", []byte("abc"))
				if !fail.Is(err, fail.Invalid) || fail.HintOf(err) == "" {
					t.Errorf("a lock asked of a bucket without: %v", err)
				}
			})
		})
	}
}

func testLocked(t *testing.T, s objstore.Store, name string, span time.Duration) {
	ctx := t.Context()
	if err := s.Create(ctx, name, []byte("abc")); err != nil {
		t.Fatal(err)
	}
	l, err := s.Lock(ctx, name)
	if err != nil || l.Mode != objstore.Compliance || (l.For()-span).Abs() > time.Minute {
		t.Fatalf("%+v, %v", l, err)
	}
	if err := s.Delete(ctx, name); !fail.Is(err, fail.Denied) && !fail.Is(err, fail.Invalid) {
		t.Errorf("deleted: %v", err)
	}
	if err := s.Create(ctx, name, []byte("other")); !fail.Is(err, fail.Exists) {
		t.Errorf("created again: %v", err)
	}
	later := objstore.Lock{Mode: objstore.Compliance, Until: l.Until.Add(time.Hour).Truncate(time.Second)}
	if err := s.Extend(ctx, name, later); err != nil {
		t.Fatal(err)
	}
	weaker := objstore.Lock{Mode: objstore.Governance, Until: later.Until.Add(time.Hour)}
	if err := s.Extend(ctx, name, weaker); err != nil {
		t.Errorf("in a weaker mode: %v", err)
	}
	if err := s.Extend(ctx, name, later); err != nil {
		t.Errorf("to an earlier date: %v", err)
	}
	if l, err := s.Lock(ctx, name); err != nil || l.Mode != objstore.Compliance || !l.Until.Equal(weaker.Until) {
		t.Errorf("%+v, %v", l, err)
	}
	if b, err := s.Read(ctx, name, 0, -1, nil); err != nil || string(b) != "abc" {
		t.Errorf("%q, %v", b, err)
	}
}

// testVersions deletes where a delete without a version would only hide the object.
func testVersions(t *testing.T, s objstore.Store) {
	ctx := t.Context()
	for _, name := range []string{"map/1", "map/2"} {
		if err := s.Create(ctx, name, []byte("abc")); err != nil {
			t.Fatal(err)
		}
		if err := s.Delete(ctx, name); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Size(ctx, name); !fail.Is(err, fail.NotFound) {
			t.Fatalf("it is still there: %v", err)
		}
		if err := s.Delete(ctx, name); err != nil {
			t.Errorf("again: %v", err)
		}
	}
	if _, err := s.Lock(ctx, "map/1"); !fail.Is(err, fail.NotFound) {
		t.Errorf("the lock of nothing: %v", err)
	}
	if err := s.Create(ctx, "map/3", []byte("abc")); err != nil {
		t.Fatal(err)
	}
	if l, err := s.Lock(ctx, "map/3"); err != nil || l.Mode != "" || time.Since(l.Created).Abs() > time.Minute {
		t.Errorf("%+v, %v", l, err)
	}
}
