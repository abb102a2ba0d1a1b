// Package logtest writes object logs for tests, and knows what every volume in them
// holds at every LSN. It is imported by tests only.
package logtest
