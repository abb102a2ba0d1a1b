// Package nbd serves block.Devices to NBD clients (QEMU, the Linux kernel,
// libnbd) over unix sockets and TCP, in the fixed newstyle dialect with
// simple and structured replies, base:allocation and TLS by STARTTLS. The
// protocol is that of
// https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md.
//
// The agent serves volumes with it, a mount serves the twin with it.
//
// What it guarantees:
//
//   - A reply is sent only after the device has completed the request; a FLUSH
//     reaches the device only after it was received, so that Device.Flush's
//     promise is the client's promise, across all connections.
//   - A client, however hostile or broken, costs at most one connection slot and
//     a fixed amount of memory and goroutines. It cannot stall another one:
//     sizes are checked before anything is allocated, messages that stall end
//     the connection, replies that nobody reads stop the reading of requests.
//   - A payload of up to 64 KiB has arrived completely before any of the
//     device's memory is taken.
//
// One goroutine per connection reads requests, and carries out on the spot what
// a device does without waiting; the replies of a batch of requests leave in
// one system call. What waits for a disk or a network (FLUSH, FUA, slow reads)
// goes to a bounded set of workers.
package nbd
