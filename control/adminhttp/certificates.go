package adminhttp

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/pki"
)

// Certificates says until when certificates hold.
func Certificates(files []string, now time.Time) (out []api.CertificateStatus) {
	for _, f := range files {
		c := api.CertificateStatus{File: f}
		until, err := pki.Until(f)
		if err != nil {
			c.Warning, c.Urgent = err.Error(), true
		} else {
			c.Until = until.UTC()
			c.Warning, c.Urgent = pki.Expiry(until, now)
		}
		out = append(out, c)
	}
	return out
}

var descCertificate = Desc("certificate_expires_timestamp_seconds",
	"When a certificate of the configuration expires, in Unix time.", "file")

// CollectCertificates makes metrics of them.
func CollectCertificates(all []api.CertificateStatus, c chan<- prometheus.Metric) {
	for _, x := range all {
		if !x.Until.IsZero() {
			c <- prometheus.MustNewConstMetric(descCertificate, prometheus.GaugeValue, float64(x.Until.Unix()), x.File)
		}
	}
}
