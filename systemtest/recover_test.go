package systemtest

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestRecover loses the agent's host, and then only its WAL, and rebuilds it each
// time: what was flushed under ack: journal is there, and the group goes on with the
// same log.
func TestRecover(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.form()
	s := newSite(t, siteConf{journal: c.addresses(), url: c.store})
	s.mustStart()
	s.verb("group", "create", "g", "--ack", "journal")
	s.verb("volume", "create", "v", "--group", "g", "--size", "16MiB")
	r := newRand(t)
	w := newWriter(s, "g", "v", exactBytes, r)
	for _, lose := range []func(){
		func() { _ = os.RemoveAll(s.conf.state) },
		func() { _ = os.Rename(filepath.Join(s.conf.state, "agent"), filepath.Join(s.dir, "damaged")) },
	} {
		w.connect()
		done := make(chan error, 1)
		go func() { done <- w.run(context.Background()) }()
		w.progress(500)
		s.agent.Kill()
		<-done
		lose()
		if w.pending != nil {
			w.h.add(*w.pending, len(w.pending.parts()))
			w.pending = nil
		}
		args := append([]string{"recover", "-c", s.config(), "--yes", "--overwrite"}, s.storeArgs()...)
		shown := s.shownToRecover(t, args)
		v := s.verb(args...)
		sameRun(t, "recover", shown, v)
		lsn := uint64(v["volumes"].([]any)[0].(map[string]any)["lsn"].(float64))
		if flushed := w.flushed.Load(); lsn < flushed || lsn > w.h.lsn {
			t.Fatalf("recovered to LSN %d, flushed was %d, written %d", lsn, flushed, w.h.lsn)
		}
		s.mustStart()
		w.connect()
		want := w.h.at(lsn)
		sameBytes(t, "the rebuilt volume", readAll(t, w.conn), want)
		w.h = newHistory(exactBytes, lsn) // what was not committed never was
		copy(w.h.image, want)
		w.h.save()
	}
	w.connect()
	stop := w.background()
	w.progress(300)
	stop()
	s.drained("g", time.Minute)
	if newest := w.checkNewest(); newest != w.h.lsn {
		t.Errorf("the twin ends at LSN %d, the model at %d", newest, w.h.lsn)
	}
}
