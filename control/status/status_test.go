package status

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/state"
)

// TestGroupLSNs: a group's LSNs are those of the answering agent's stream, or of the only
// one that there is. LSNs of different streams are never added up, and what is not known
// is null, which does not read as durable.
func TestGroupLSNs(t *testing.T) {
	member := func(w world) { w.Agent = nil }
	known := func(w world, n int, last, durable uint64) {
		s := &w.group.Streams[n]
		s.Known, s.Last, s.Durable = true, last, durable
	}
	second := func(w world) { w.group.Streams = append(w.group.Streams, Stream{ID: uuid.New(), Agent: "b"}) }
	for name, c := range map[string]struct {
		make func(world)
		want string
	}{
		"its agent": {func(w world) { w.stream.RemoteLSN = 7; known(w, 0, 8, 7) },
			`9 7 [{"agent":"a","last_lsn":9,"durable_lsn":7}]`},
		"its agent, of two": {func(w world) { second(w); w.stream.RemoteLSN = 7 },
			`9 7 [{"agent":"a","last_lsn":9,"durable_lsn":7},{"agent":"b","last_lsn":null,"durable_lsn":null}]`},
		"a member with an agent": {func(w world) { second(w); known(w, 0, 8, 7); known(w, 1, 100, 50) },
			`9 9 [{"agent":"a","last_lsn":9,"durable_lsn":9},{"agent":"b","last_lsn":100,"durable_lsn":50}]`},
		"another agent, which does not know": {func(w world) { w.Agent.Name, w.Agent.Streams = "z", nil },
			`null null [{"agent":"a","last_lsn":null,"durable_lsn":null}]`},
		"a member": {func(w world) { member(w); known(w, 0, 8, 7) },
			`8 7 [{"agent":"a","last_lsn":8,"durable_lsn":7}]`},
		"a member, nothing written": {func(w world) { member(w); known(w, 0, 0, 0) },
			`0 0 [{"agent":"a","last_lsn":0,"durable_lsn":0}]`},
		"a member, of two": {func(w world) { member(w); second(w); known(w, 0, 8, 7); known(w, 1, 100, 50) },
			`null null [{"agent":"a","last_lsn":8,"durable_lsn":7},{"agent":"b","last_lsn":100,"durable_lsn":50}]`},
		"no volume yet": {func(w world) { member(w); w.group.Streams = nil }, `0 0 []`},
	} {
		w := newWorld()
		c.make(w)
		b, err := json.Marshal(w.Status())
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Groups []struct {
				Name    string          `json:"name"`
				State   string          `json:"state"`
				Last    json.RawMessage `json:"last_lsn"`
				Durable json.RawMessage `json:"durable_lsn"`
				Streams json.RawMessage `json:"streams"`
			} `json:"groups"`
		}
		if err := json.Unmarshal(b, &got); err != nil || len(got.Groups) != 1 {
			t.Fatalf("%s: %v, %s", name, err, b)
		}
		g := got.Groups[0]
		if s := string(g.Last) + " " + string(g.Durable) + " " + string(g.Streams); s != c.want || g.Name != "g" ||
			g.State == "" {
			t.Errorf("%s: %s, want %s", name, s, c.want)
		}
		var back api.Status // what a client prints is what it was told
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatal(err)
		}
		if again, err := json.Marshal(back); err != nil || string(again) != string(b) {
			t.Errorf("%s: %s became %s, %v", name, b, again, err)
		}
	}
}

// TestJournalError: who has not heard of the journal, cannot ship to it, or knows nobody
// who leads it says so.
func TestJournalError(t *testing.T) {
	for name, c := range map[string]struct {
		make func(world)
		want string
	}{
		"well":                  {func(world) {}, ""},
		"unheard of":            {func(w world) { w.Journal.Err = errors.New("not yet") }, "not yet"},
		"the agent's way to it": {func(w world) { w.Agent.ShipErr = errors.New("no route") }, "no route"},
		"embedded": {func(w world) {
			w.Journal.Alone, w.Journal.Leads, w.Agent.ShipErr = true, true, errors.New("a moment")
		}, ""},
		"a member without a leader": {func(w world) { w.Agent, w.Journal.Leader = nil, "" }, noLeader},
	} {
		w := newWorld()
		c.make(w)
		if got := w.Status().Journal; got.Error != c.want || got.ID == "" {
			t.Errorf("%s: %+v", name, got)
		}
	}
	var m Model
	if got := m.Status(); got.Journal.ID != "" || got.Groups == nil || got.Targets == nil {
		t.Errorf("of nothing: %+v", got)
	}
}

// TestUnsyncedAgent: before the journal was heard of, an agent speaks of its own streams.
func TestUnsyncedAgent(t *testing.T) {
	w := newWorld()
	w.Groups, w.Journal.Synced = nil, false
	w.stream.Conf.Paused = true
	got := w.Status().Groups
	if len(got) != 1 || got[0].Name != "g" || got[0].State != "Paused" || got[0].LastLSN != 9 ||
		len(got[0].Streams) != 1 {
		t.Errorf("%+v", got)
	}
}

// TestPointTime: the newest point is as old as the lag, by the time of day.
func TestPointTime(t *testing.T) {
	w := newWorld()
	w.stream.Lag, w.Wall = 3*time.Second, now.Add(time.Hour)
	if got := w.Status().Groups[0].LastPointTime; got == nil || !got.Equal(now.Add(time.Hour-3*time.Second)) {
		t.Errorf("%v", got)
	}
	w.stream.RemoteLSN = 0
	if got := w.Status().Groups[0].LastPointTime; got != nil {
		t.Errorf("without a point: %v", got)
	}
}

// TestRead takes from a control state what groups, volumes and streams say, and answers
// the list of groups with all that a group has.
func TestRead(t *testing.T) {
	keep, err := state.ParseRetention("every_write=24h")
	if err != nil {
		t.Fatal(err)
	}
	s := state.New()
	s.Groups["db"] = &state.Group{Name: "db", Ack: "local", Overflow: "throttle", PITR: "fold", RPOTargetSeconds: 5,
		Retention: &keep, Owner: "b", Agents: []string{"a"}}
	s.Groups["az"] = &state.Group{Name: "az", Ack: "journal", OnAckLoss: "degrade", Paused: true}
	ida, idb := uuid.New(), uuid.New()
	s.Streams[idb] = &state.Stream{ID: idb, Group: "db", Agent: "b",
		Resyncs: []state.Resync{{After: 1, Until: 4}, {After: 6}}}
	s.Streams[ida] = &state.Stream{ID: ida, Group: "db", Agent: "a", Resyncs: []state.Resync{{After: 1, Until: 4}}}
	s.Volumes["v"] = &state.Volume{Name: "v", Group: "db", Ready: true}
	s.Volumes["w"] = &state.Volume{Name: "w", Group: "db"}
	s.Volumes["x"] = &state.Volume{Name: "x", Group: "az", Removed: true}
	var m Model
	m.Read(s)
	if len(m.Groups) != 2 || m.Groups[0].Initializing || !m.Groups[1].Initializing {
		t.Errorf("%+v", m.Groups)
	}
	want := []Stream{{ID: ida, Agent: "a"}, {ID: idb, Agent: "b", Resyncing: true, ResyncAfter: 6}}
	if diff := cmp.Diff(want, m.Groups[1].Streams); diff != "" {
		t.Error(diff)
	}
	db := api.Group{Name: "db", Ack: "local", OnAckLoss: "wait", Overflow: "throttle", PITR: "fold",
		RPOTargetSeconds: 5, Retention: "every_write=1d", Owner: "b", Agents: []string{"a"},
		Standbys: []api.Standby{}, Volumes: 2}
	az := api.Group{Name: "az", Ack: "journal", OnAckLoss: "degrade", Paused: true, Retention: "forever",
		Standbys: []api.Standby{}}
	for name, want := range map[string][]api.Group{"": {az, db}, "db": {db}, "nope": {}} {
		got, found := m.GroupList(name)
		if diff := cmp.Diff(want, got); diff != "" || found != (name != "nope") {
			t.Errorf("%q: %v, %s", name, found, diff)
		}
	}
}

// collector is a function as a prometheus.Collector.
type collector func(chan<- prometheus.Metric)

func (f collector) Collect(c chan<- prometheus.Metric) { f(c) }
func (f collector) Describe(c chan<- *prometheus.Desc) { prometheus.DescribeByCollect(f, c) }

// TestMetricsSayWhatStatusSays, of an agent and of a member.
func TestMetricsSayWhatStatusSays(t *testing.T) {
	w := newWorld()
	w.group.Streams[0].Known = true
	w.stream.Lag, w.stream.LagBytes = 3*time.Second, 77
	w.Journal.Leads = true
	w.Journal.Targets[0].Error, w.Journal.Targets[0].LagSeconds = "403", 4
	w.Journal.Targets[0].Catalog = &change.CatalogInfo{Position: 12}
	w.Certificates = []api.CertificateStatus{{File: "c.pem", Until: now}}
	st := w.Status()
	for kind, collect := range map[string]func(*api.Status, chan<- prometheus.Metric){
		"agent": CollectAgent, "member": CollectMember,
	} {
		reg := prometheus.NewPedanticRegistry()
		reg.MustRegister(collector(func(c chan<- prometheus.Metric) { collect(&st, c) }))
		all, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, m := range all {
			got[m.GetName()] = m.Metric[0].GetGauge().GetValue() + m.Metric[0].GetCounter().GetValue()
		}
		want := map[string]float64{"pollux_target_error": 1, "pollux_target_catalog_position": 12,
			"pollux_certificate_expires_timestamp_seconds": float64(now.Unix())}
		if kind == "agent" {
			want["pollux_lag_seconds"], want["pollux_lag_bytes"], want["pollux_last_lsn"] = 3, 77, 9
			want["pollux_group_state"] = 1
		} else {
			want["pollux_target_lag_seconds"], want["pollux_journal_leader"] = 4, 1
		}
		for name, v := range want {
			if x, ok := got[name]; !ok || x != v {
				t.Errorf("%s: %s is %v, want %v", kind, name, x, v)
			}
		}
	}
}
