// Package metafile keeps a small durable record: one line of JSON followed by its CRC-32C, written
// atomically. Its format is docs/formats/agent-meta.md's. The agent keeps its manifest and
// checkpoints so, and control/promote what it has begun.
package metafile
