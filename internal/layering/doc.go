// Package layering holds the tests of the tree as a whole: imports point down and wings link
// only what they may (layering_test.go); the glossary and the table of metrics say what the
// code says (glossary_test.go, metrics_test.go); lines are short (lines_test.go). It has no
// code.
package layering
