// Package parked is an NBD server whose volumes are not there yet: clients connect and negotiate, and
// all their I/O waits until Resolve says who serves it. A standby runs one, so that clients at its
// site are attached already when its journal comes there, and go on at once.
//
// It guarantees that nothing is answered before Resolve, with data or otherwise; that a client whose
// volume is not served then, or is not what the client was told of, is disconnected and answered
// nothing, as all are whom Close ends; and that a client that waits costs no more than its
// connection's buffer (nbd.Parked).
package parked
