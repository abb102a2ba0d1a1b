// Package parked is an NBD server whose volumes are not there yet: clients connect and negotiate, and
// all their I/O waits until Resolve says who serves it. A standby runs one, so that clients at its
// site are attached already when its journal comes there, and go on within one round trip.
package parked
