// Package raftbench measures what a Raft log store costs: three voters in one
// process over loopback TCP, entries of one size with a fixed number in flight, and
// whatever fsync the stores do. Raft, its settings and its transport are the same
// for all, and the FSM does nothing, so that the difference is the store. As in a
// journal that runs, a snapshot lets the front of the log go whenever it has grown
// by keepBytes: a store has to take back room, not only to take it.
//
// `pollux bench journal` runs it on Pollux's own store, and the nested module
// bench/peers on other stores, each in a process of its own.
package raftbench
