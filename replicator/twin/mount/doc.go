// Package mount serves a volume at a recovery point as a block.Device: what is read
// comes from the store on demand, and stays in a local file that is bounded; what is
// written stays there too, and goes nowhere else. Hydrate fills the file until the
// store is not needed any more.
//
// It guarantees that a read returns what was written last to the device, else what the
// volume held at the point; that every byte from the store was checked; and that
// memory is bounded by a setting. A full disk costs what was kept of what was read, never
// a read. Closing it forgets all of it. `pollux mount` and control/comparison call it.
package mount
