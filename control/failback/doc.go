// Package failback is the way back of a former seat: a host whose journal went on at another site
// under a higher epoch, and whose agent has writes that the journal does not have.
//
// It guarantees that nothing which only this host has is overwritten before it is saved as a branch
// that was synced and read again; that afterwards each backing which is followed holds, byte for
// byte, a recovery point of the journal's log; and that a run which was cut short behind any step is
// gone on with by the next. The steps, each of which is recorded (package record) before the next
// begins: settle what was acknowledged into the backings; save what lies behind the branch point; put
// that back from the log; make the standby's state; put the former agent's state aside.
//
// What lies behind the branch point is told by the agent's WAL and bitmaps. Where those do not tell
// it, the volumes are compared with the log, all of them, and the report says so.
package failback
