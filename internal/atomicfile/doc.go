// Package atomicfile writes small files so that a power cut leaves the old or the
// new one. Agent, journal, certificates, file stores and restores keep theirs with it.
package atomicfile
