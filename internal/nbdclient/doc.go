// Package nbdclient is a small NBD client that keeps many requests in flight on
// one connection. The demo, the benchmarks, the verbs that compare a
// volume in use, and the tests of the servers use it; it speaks to any server of the fixed newstyle, and
// makes use of structured replies and base:allocation where they are offered. The protocol is that of
// https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md.
//
// A Conn is safe for concurrent use. There is no reconnecting: after the
// first failure of the connection, a cancelled context included, every call
// fails with fail.Retry, and the caller dials again.
package nbdclient
