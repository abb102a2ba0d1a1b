package node

import (
	"time"

	"github.com/pollux-dr/pollux/control/adminhttp"
	"github.com/pollux-dr/pollux/control/status"
	"github.com/pollux-dr/pollux/control/verbs"
)

// common has the verbs that an agent has in common with a journal's member.
func (d *Daemon) common() verbs.Common {
	return verbs.Common{Journal: d.journal, Auditor: d.audit, Own: d.own}
}

// own fills in what this host knows by itself.
func (d *Daemon) own(m *status.Model) {
	m.Version, m.Uptime = d.version, time.Since(d.start)
	m.Certificates = adminhttp.Certificates(d.conf.Certificates(), m.Now)
	m.Agent = &status.Agent{Name: d.conf.Name, Status: d.agent.Status(), Accepted: map[string]string{},
		Hydrating: d.hydrating.all()}
	if d.nbd != nil {
		m.Agent.Connections = d.nbd.Connections()
	}
	d.accepted.Range(func(group, volume any) bool {
		m.Agent.Accepted[group.(string)] = volume.(string)
		return true
	})
}
