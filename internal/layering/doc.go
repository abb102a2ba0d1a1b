// Package layering holds the test that keeps imports pointing down: see
// layering_test.go for the order. It has no code.
package layering
