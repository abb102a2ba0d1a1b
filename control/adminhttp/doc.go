// Package adminhttp is what the daemons behind `pollux agent` and `pollux journal` have in
// common toward operators and monitoring: the HTTP servers of the control socket,
// of verbs from other hosts and of /metrics, and the metrics of object stores.
package adminhttp
