package state

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestSaveFor: an agent's copy has names, sizes and points of all, and paths and audit
// of its own host only.
func TestSaveFor(t *testing.T) {
	s := example(t)
	must(t, s, KindVolumeCreate, Volume{Name: "secret", Group: "g", Stream: testStream, Agent: "b", SizeBytes: 8192,
		Backing: "/srv/customer-7.img"})
	must(t, s, KindAudit, Audit{Who: "operator/kim", Host: "a", Verb: "volume-rm", Outcome: "ok"})
	must(t, s, KindAudit, Audit{Who: "operator/kim", Host: "b", Verb: "bookmark-add", Outcome: "ok"})
	copied := New()
	for _, key := range s.Keys() {
		b, ok := s.SaveFor("a", key)
		if !ok {
			continue
		}
		if err := copied.Load(key, b); err != nil {
			t.Fatalf("%s: %v", key, err)
		}
	}
	if v := copied.Volumes["secret"]; v == nil || v.SizeBytes != 8192 || v.Backing != "" {
		t.Errorf("another's volume: %+v", v)
	}
	if v := copied.Volumes["v"]; v == nil || v.Backing != "/v" {
		t.Errorf("its own volume: %+v", v)
	}
	if len(copied.Audits) != 1 || copied.Audits[2].Verb != "volume-rm" {
		t.Errorf("the audit: %+v", copied.Audits)
	}
	all, err := json.Marshal(copied)
	if err != nil || strings.Contains(string(all), "customer-7") {
		t.Errorf("the copy tells another's paths: %s, %v", all, err)
	}
	if s.Volumes["secret"].Backing == "" {
		t.Error("the state itself was changed")
	}
}
