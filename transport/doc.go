// Package transport moves opaque messages between agents and journals over any
// stream connection (unix socket, TCP, TLS).
//
// It guarantees that a message arrives whole, checked and in order, or that the
// connection ends; resending after that is its callers' (agent and
// replicator/journal), who know what was accepted. The wire format is in
// docs/formats/transport.md.
package transport
