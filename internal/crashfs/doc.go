// Package crashfs wraps a filesystem for crash tests: it calls a hook before
// every operation that changes something, so that a test can take the state of
// a power cut at each of them, and it can turn one class of fsync into a no-op,
// so that a test can show that this very fsync matters. Tests only.
package crashfs
