// Package node is the process behind `pollux agent`: it wires agent, embedded
// journal, uploaders, NBD server, control socket and metrics. Agent and replicator, which
// never import each other, meet here.
//
// It starts the parts in the order of their needs, ends when one of them cannot
// go on, and stops them in reverse so that nothing acknowledged is lost.
package node
