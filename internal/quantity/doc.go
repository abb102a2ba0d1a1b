// Package quantity reads and writes what people give to flags and settings: sizes,
// durations and times. There is one grammar for each, everywhere.
//
// A value that can be taken for another one is refused: a small size without a unit, a
// duration without one, a unit that is 1000 for some and 1024 for others. A time
// without a zone is taken in this host's, and whoever asked is told.
package quantity
