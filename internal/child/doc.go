// Package child starts processes that die with this one, whatever ends it.
// Demo, benchmarks and system tests run agents and S3 servers through it.
package child
