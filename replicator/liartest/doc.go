// Package liartest holds no code but tests: each verb that reads or writes an object log is
// run against a store that lies, in every way that package liar knows.
package liartest
