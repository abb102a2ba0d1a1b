// Package bench measures what protection costs, on one machine and against
// what the same machine does without it: the write path against the same NBD
// server without a log, the lag against bare PUTs of the same objects, and the
// restore against fetching the same objects in parallel.
//
// Write, Lag, Restore, Mount, Journal, Scale and Catchup each run one benchmark and return
// its report, which has a JSON form and a table for people. The agent, the unprotected server and
// the S3 server are child processes, so that nothing shares a heap or a
// scheduler with what is measured. `pollux bench` is the thin verb above it;
// docs/benchmarks.md says how to read the results.
package bench
