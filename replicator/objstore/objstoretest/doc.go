// Package objstoretest is the conformance suite of object stores: what the
// object log relies on, checked against a real store of any kind. The tests of
// package objstore run it on every store and decorator.
package objstoretest
