// Package promote moves a journal to this site. Force does it without the former seat: from the
// object log alone, which it fences, it makes the journal's state under the next epoch, gives the
// streams to the agent here, and brings the volumes' images to the newest point, or to an earlier
// one. It asks nothing of the former site, so that it cannot hang on that.
//
// It guarantees that nothing is changed before the caller has confirmed what is shown; that of
// several sites that try at once exactly one has the log; that each step is written down before
// and after it is done, so that a repeat goes on where a stop of any kind has left it; and that
// no write of the former seat counts behind the fence. `pollux failover` calls it.
package promote
