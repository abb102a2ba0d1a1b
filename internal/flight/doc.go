// Package flight lets several callers that want the same thing at once share the work of
// one. Unlike with x/sync/singleflight, nobody's end is another's: who waits leaves when its
// own context ends, and does the work itself when the caller that was at it was cancelled.
package flight
