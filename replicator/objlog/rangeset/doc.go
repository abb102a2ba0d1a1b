// Package rangeset has sets of ranges of a volume's bytes. Who adds a range learns what of
// it is new, so that a log can be taken newest first and each byte be taken once: twin
// finds out with it what a volume holds, fold what was overwritten, and a comparison with a
// volume in use where the two may differ.
package rangeset
