// Package golden keeps vectors of the formats for tests: small files under a
// package's testdata/golden that a build wrote once and that every later build reads.
// docs/formats/README.md has the rule: a change of a format adds a vector, and a vector
// that is there is never written again.
package golden
