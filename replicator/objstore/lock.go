package objstore

import "time"

// Modes of Object Lock, as S3 names them: nobody can shorten a Compliance date, and
// with a permission of its own a Governance one.
const (
	Compliance = "COMPLIANCE"
	Governance = "GOVERNANCE"
)

// LockRule says for how long each object that is created is kept from deletion. The
// zero rule leaves that to the bucket.
type LockRule struct {
	Mode string
	For  time.Duration
}

// Lock says until when an object is kept from deletion. The zero Lock does not keep it.
type Lock struct {
	Mode    string
	Until   time.Time
	Created time.Time // by the store's clock; set without a lock too
}

// For is how long after its creation the object is kept.
func (l *Lock) For() time.Duration {
	if l.Mode == "" {
		return 0
	}
	return l.Until.Sub(l.Created)
}
