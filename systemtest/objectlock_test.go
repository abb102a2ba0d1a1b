package systemtest

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/s3test"
)

// TestObjectLock has real servers keep the twin from deletion: the target asks for
// it, gc keeps what it writes the same way, and the bucket's owner deletes everything
// that can be deleted.
func TestObjectLock(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{s3test.VersityGW, s3test.MinIO} {
		t.Run(kind, func(t *testing.T) {
			srv, err := s3test.Start(t.Context(), kind, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = srv.Stop() })
			const bucket = "locked"
			if err := srv.CreateLockedBucket(t.Context(), bucket, "", 0); err != nil {
				t.Fatal(err)
			}
			s := newSite(t, siteConf{url: "s3://" + bucket + "/twin", endpoint: srv.Endpoint,
				credentials: srv.CredentialsFile,
				target:      "      object_lock: {mode: compliance, for: 2d}\n"})
			if o := s.pollux("doctor", "-c", s.config()); !strings.Contains(o.stdout,
				"keeps new objects from deletion for 48h0m0s (compliance)") ||
				strings.Contains(o.stdout, "FAIL  Object Lock") {
				t.Errorf("doctor: %s %s", o.stdout, o.stderr)
			}
			s.mustStart()
			s.volume("g", "v", "16MiB")
			conn, img, r := s.dial("v"), make([]byte, 16<<20), rand.NewChaCha8([32]byte{9})
			held := 0.0
			for range 12 { // old catalogs are noted as garbage once they are some
				noise(t, conn, img, r, 60)
				s.drained("g", time.Minute)
				rep := s.verb(append([]string{"gc", "--grace", "0s", "--object-lock", "compliance=2d"},
					s.storeArgs()...)...)
				lock := rep["object_lock"].(map[string]any)
				if lock["mode"] != "COMPLIANCE" || lock["for_seconds"].(float64) != 2*86400 ||
					lock["failed"].(float64) != 0 {
					t.Errorf("%v", lock)
				}
				held += rep["held"].(map[string]any)["objects"].(float64)
			}
			if held == 0 {
				t.Error("no garbage was held")
			}
			s.agent.Kill()
			gone, stayed, err := srv.DeleteAll(t.Context(), bucket)
			t.Logf("%d objects were deleted, %d stayed", gone, stayed)
			if err != nil || stayed < 20 {
				t.Errorf("%d stayed, %v", stayed, err)
			}
			got, _ := s.restore("v", "")
			sameBytes(t, "after everything that can be was deleted", got, img)
			if v := s.verb(append([]string{"verify"}, s.storeArgs()...)...); len(v["damaged"].([]any)) != 0 {
				t.Errorf("%v", v)
			}
		})
	}
	t.Run("Plain", func(t *testing.T) {
		srv, err := s3test.Start(t.Context(), s3test.VersityGW, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = srv.Stop() })
		if err := srv.CreateBucket(t.Context(), "plain"); err != nil {
			t.Fatal(err)
		}
		s := newSite(t, siteConf{url: "s3://plain/twin", endpoint: srv.Endpoint, credentials: srv.CredentialsFile,
			target: "      object_lock: {mode: governance, for: 1d}\n"})
		s.launch()
		until(t, time.Minute, "the agent says what is wrong", func() error {
			if !s.agent.Running() || strings.Contains(s.logText(), "leave object_lock out") {
				return nil
			}
			return fail.New(fail.Retry, "", "", s.logText())
		})
		t.Log(tail(s.logText(), 3))
		// Without it, all goes on; and gc works in a bucket without locks and versions.
		s.agent.Kill()
		s.conf.target = ""
		s.configure()
		s.mustStart()
		s.volume("g", "v", "16MiB")
		conn, img, r := s.dial("v"), make([]byte, 16<<20), rand.NewChaCha8([32]byte{9})
		for range 12 {
			noise(t, conn, img, r, 60)
			s.drained("g", time.Minute)
			rep := s.verb(append([]string{"gc", "--grace", "0s"}, s.storeArgs()...)...)
			if rep["object_lock"] != nil || rep["failed"].(map[string]any)["objects"].(float64) != 0 {
				t.Errorf("%v", rep)
			}
		}
		got, _ := s.restore("v", "")
		sameBytes(t, "from a plain bucket", got, img)
	})
}
