package objstore_test

import (
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/s3test"
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
				s, err := objstore.Open(t.Context(), "s3://"+bucket+"/p",
					objstore.Options{Endpoint: srv.Endpoint, CredentialsFile: srv.CredentialsFile, Lock: rule})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = s.Close() })
				return s
			}
			asked := objstore.LockRule{Mode: objstore.Compliance, For: 2 * time.Hour}
			t.Run("Asked", func(t *testing.T) { testLocked(t, open("asked", asked), "log/1", asked.For) })
			t.Run("Ruled", func(t *testing.T) {
				s := open("ruled", objstore.LockRule{})
				if r, err := s.LockRule(t.Context()); err != nil ||
					r != (objstore.LockRule{Mode: objstore.Compliance, For: 72 * time.Hour}) {
					t.Errorf("%+v, %v", r, err)
				}
				testLocked(t, s, "log/2", 72*time.Hour)
			})
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
	if l.Mode == "" { // versitygw does not write the bucket's rule into the object
		l.Mode, l.Until = objstore.Compliance, l.Created.Add(span)
	}
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
	if r, err := s.LockRule(ctx); err != nil || r.For != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if l, err := s.Lock(ctx, "map/3"); err != nil || l.Mode != "" || time.Since(l.Created).Abs() > time.Minute {
		t.Errorf("%+v, %v", l, err)
	}
}

// TestS3Versions: buckets whose versions were switched on late, or off again, keep
// nothing of what is deleted, and a version or marker put on top changes nothing.
func TestS3Versions(t *testing.T) {
	for _, kind := range kinds {
		for _, when := range []string{"late", "suspended", "late-suspended", "on-top"} {
			t.Run(kind+"/"+when, func(t *testing.T) { testVersionsWhen(t, kind, when) })
		}
	}
}

func testVersionsWhen(t *testing.T, kind, when string) {
	srv := startServer(t, kind)
	ctx := t.Context()
	c, err := srv.Client()
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	b := "b" + when
	must(srv.CreateBucket(ctx, b))
	open := func() objstore.Store {
		s, err := objstore.Open(ctx, "s3://"+b+"/p",
			objstore.Options{Endpoint: srv.Endpoint, CredentialsFile: srv.CredentialsFile})
		must(err)
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	s, names := open(), []string{"map/old", "map/new", "map/newer"}
	must(s.Create(ctx, names[0], []byte("abc")))
	must(c.EnableVersioning(ctx, b))
	if when != "late-suspended" {
		must(s.Create(ctx, names[1], []byte("abc")))
	}
	if when == "suspended" || when == "late-suspended" {
		must(c.SuspendVersioning(ctx, b))
	}
	must(s.Create(ctx, names[2], []byte("abc")))
	if when == "on-top" {
		_, err := c.PutObject(ctx, b, "p/map/new", strings.NewReader("junk"), 4, minio.PutObjectOptions{})
		must(err)
		must(c.RemoveObject(ctx, b, "p/map/newer", minio.RemoveObjectOptions{}))
	}
	s = open()
	for _, name := range names {
		must(s.Delete(ctx, name))
	}
	for o := range c.ListObjectsIter(ctx, b, minio.ListObjectsOptions{Recursive: true, WithVersions: true}) {
		t.Errorf("left: %s, version %s, marker %v, %v", o.Key, o.VersionID, o.IsDeleteMarker, o.Err)
	}
}

// TestS3ExtendFirst: somebody puts another version on top of a locked object. The date
// that is moved is the object's. (versitygw does not tell the dates of older versions.)
func TestS3ExtendFirst(t *testing.T) {
	srv := startServer(t, s3test.MinIO)
	ctx := t.Context()
	c, err := srv.Client()
	if err == nil {
		err = srv.CreateLockedBucket(ctx, "asked", "", 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := objstore.Open(ctx, "s3://asked/p",
		objstore.Options{Endpoint: srv.Endpoint, CredentialsFile: srv.CredentialsFile,
			Lock: objstore.LockRule{Mode: objstore.Compliance, For: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Create(ctx, "log/1", []byte("abc")); err != nil {
		t.Fatal(err)
	}
	was, err := c.StatObject(ctx, "asked", "p/log/1", minio.StatObjectOptions{})
	if err == nil {
		_, err = c.PutObject(ctx, "asked", "p/log/1", strings.NewReader("xyz"), 3,
			minio.PutObjectOptions{DisableMultipart: true})
	}
	if err != nil {
		t.Fatal(err)
	}
	until := time.Now().Add(50 * time.Hour).UTC().Truncate(time.Second)
	for _, hide := range []bool{false, true} {
		if hide {
			if err := c.RemoveObject(ctx, "asked", "p/log/1", minio.RemoveObjectOptions{}); err != nil {
				t.Fatal(err)
			}
			until = until.Add(time.Hour)
		}
		if err := s.Extend(ctx, "log/1", objstore.Lock{Mode: objstore.Compliance, Until: until}); err != nil {
			t.Fatal(err)
		}
		if l, err := s.Lock(ctx, "log/1"); err != nil || !l.Until.Equal(until) {
			t.Errorf("%+v, %v", l, err)
		}
		if _, is, err := c.GetObjectRetention(ctx, "asked", "p/log/1", was.VersionID); err != nil || !is.Equal(until) {
			t.Errorf("the version that was made is kept until %v, %v", is, err)
		}
	}
}
