// Package faultproxy puts faults between a client and a server on loopback: it
// forwards a TCP port and, told so, refuses, stalls, delays or cuts connections.
// In front of an HTTP server it also loses replies, once the request was done,
// and answers requests itself with an error status.
//
// System tests and benchmarks use it to show that a fault of the store or the network delays,
// and never turns into a gap, a double or an I/O error. Faults can be changed
// at any time and then apply to open connections too. Close ends everything.
package faultproxy
