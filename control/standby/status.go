package standby

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pollux-dr/pollux/control/adminhttp"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/twin/standby"
)

// service carries out the verbs of a standby's control socket.
type service struct{ d *Daemon }

var _ api.StandbyService = service{}

// Status is what is known without asking the store.
func (s service) Status(context.Context, struct{}) (api.Status, error) {
	d := s.d
	return api.Status{Groups: []api.GroupStatus{}, Targets: []api.TargetStatus{},
		Certificates: adminhttp.Certificates(d.conf.Certificates(), time.Now()), Standby: d.status()}, nil
}

func (d *Daemon) status() *api.StandbyStatus {
	st := d.engine.Status()
	out := &api.StandbyStatus{Name: d.conf.Name, Site: d.conf.Site, Version: d.version,
		UptimeSeconds: time.Since(d.start).Seconds(), Target: d.target.Name, URL: st.Store, Journal: st.Journal,
		Epoch: st.Epoch, Position: st.Position, StagedBytes: st.Staged,
		Parks:        d.parked != nil,
		DelaySeconds: time.Duration(d.conf.Standby.Delay).Seconds(), AsOf: st.AsOf, Error: st.Error,
		BroughtBytes: st.Brought, AppliedBytes: st.Applied,
		Groups: []api.StandbyGroup{}}
	clients := d.clients()
	for _, g := range st.Groups {
		group := api.StandbyGroup{Name: g.Name, State: g.State, LagSeconds: g.LagSeconds, LagBytes: g.LagBytes,
			Volumes: []api.StandbyVolume{}}
		for _, v := range g.Volumes {
			group.Volumes = append(group.Volumes, api.StandbyVolume{Name: v.Name, Path: v.Path, State: v.State,
				Reason: v.Reason, Percent: v.Percent, LSN: v.LSN, Time: v.Time, LagSeconds: v.LagSeconds,
				LagBytes: v.LagBytes, Parked: clients[v.Name]})
		}
		out.Groups = append(out.Groups, group)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if out.Promoting = d.promoting; d.promoting {
		out.Error = "a failover to this site is under way"
		if d.promotion != nil {
			out.Error = fail.Explain(d.promotion)
		}
	}
	return out
}

// metrics are served at /metrics.
type metrics struct {
	d     *Daemon
	store *adminhttp.StoreMetrics
}

func newMetrics(d *Daemon) *metrics { return &metrics{d, adminhttp.NewStoreMetrics()} }

var (
	descLag = adminhttp.Desc("standby_lag_seconds",
		"How much older than the log's end, as last seen, what a standby's images hold is.", "group")
	descLagBytes = adminhttp.Desc("standby_lag_bytes", "Bytes that a standby has staged and not applied.", "group")
	descFollows  = adminhttp.Desc("standby_following", "1 while all images of a group follow the log.", "group")
	descSeen     = adminhttp.Desc("standby_end_seen_seconds", "How long ago a standby saw the log's end.")
	descParked   = adminhttp.Desc("standby_parked_clients", "Clients that wait for a volume.", "volume")
	descPosition = adminhttp.Desc("standby_position", "The position of the log that a standby applies next.")
	descBrought  = adminhttp.Desc("standby_brought_bytes_total",
		"Bytes of data that a standby's copies, and what differed, have written to images since the start.")
	descApplied = adminhttp.Desc("standby_applied_bytes_total",
		"Bytes of data of the log that a standby has applied to images since the start.")
)

// Describe and Collect make metrics a prometheus.Collector.
func (m *metrics) Describe(c chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, c) }

// Collect makes them of Status.
func (m *metrics) Collect(c chan<- prometheus.Metric) {
	m.store.Collect(c)
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if m.d.engine == nil {
		return
	}
	st := m.d.engine.Status()
	gauge(descPosition, float64(st.Position))
	for d, n := range map[*prometheus.Desc]int64{descBrought: st.Brought, descApplied: st.Applied} {
		c <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n))
	}
	if !st.AsOf.IsZero() {
		gauge(descSeen, time.Since(st.AsOf).Seconds())
	}
	clients := m.d.clients()
	for _, g := range st.Groups {
		for _, v := range g.Volumes {
			if m.d.parked != nil {
				gauge(descParked, float64(clients[v.Name]), v.Name)
			}
		}
		follows := 0.0
		if g.State == standby.Following || g.State == standby.Behind {
			follows = 1
		}
		gauge(descLag, g.LagSeconds, g.Name)
		gauge(descLagBytes, float64(g.LagBytes), g.Name)
		gauge(descFollows, follows, g.Name)
	}
}
