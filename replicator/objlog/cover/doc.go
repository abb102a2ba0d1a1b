// Package cover remembers which bytes of a volume are settled, so that a log can
// be taken newest first and each byte be taken once. twin restores with it, fold
// finds with it what was overwritten.
package cover
