// Package claim is how a writer makes an object log its own: a state machine without I/O. It
// walks from a place that is known to the end of the log, takes into account what it meets, has
// its fence created at the first free position, and then makes sure in the newest catalog that
// no position of this walk had been freed meanwhile: a create at a freed position proves nothing.
//
// It guarantees, whatever the store's answers' order and however long a writer sleeps between
// two of them, that of several writers of one epoch exactly one gets Done, and that whose fence
// counts for nobody does not. TestModel goes through the orders of a log's writer, two sites
// that take over, and garbage collection. The uploader claims with it, and so does a failover;
// both do what it says and tell it what came of that.
package claim
