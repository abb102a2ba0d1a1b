// Package seat watches whether a journal still has its seat where a daemon runs. Once an object
// log, or the journal on another host, says that it went on elsewhere under a higher epoch, that is
// written into the state directory, where the next start finds it before anything is served; and
// it is found out where the common history ends, and so what never left this site. The daemons
// (control/node, control/member) serve nothing from then on: DESIGN calls the seat superseded.
package seat
