// Package durable writes small files so that a power cut leaves the old or the
// new one. Agent and journal keep their metadata with it.
package durable
