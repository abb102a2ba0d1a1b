// Package objstore is the small store of immutable objects under the object
// log: create-if-absent, ranged reads, ordered lists. The uploader writes
// segments through it; restore, mount and garbage collection read.
//
// What it guarantees: Create never overwrites, has one winner however many
// race, and is durable when it returns nil. An object's bytes never change, so
// reads need no cache control. An absent object is reported only when the store
// itself said so: a refusal (403), an answer that is not the store's, or a
// failure is never taken for absence.
//
// Errors carry a fail.Kind. Retry is a passing fault of store or network;
// Denied, Full and Invalid name what the operator has to change. The contents
// of objects are the caller's to check; the store checks only lengths.
//
// A slow link, or a proxy that cuts long answers, delays: WithRetry runs fewer requests at
// once after a time-out (gate), and asks for what was cut short in smaller pieces.
//
// There are two stores, a directory (file://) and S3 (s3://), and decorators
// round either: WithRetry, WithRequests, WithObserver and, for tests,
// WithFaults. The usual order is WithRetry(WithRequests(store, …), …), so that
// each attempt pays for its request. Package objstoretest has the one
// conformance suite that every store and decorator passes.
package objstore
