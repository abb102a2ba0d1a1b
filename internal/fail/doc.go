// Package fail holds Pollux's few kinds of error, each named by what the
// caller should do about it, and the one table that maps them to exit codes.
//
// Every layer wraps what went wrong with the operation, the object it was done
// to and, where there is one, a hint for the operator. Nothing below cmd prints
// or logs an error that it also returns.
package fail
