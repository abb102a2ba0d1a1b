// Package liar stands before an S3 server and lies: it answers a request itself, or
// changes what the server has answered, in each way that a proxy, a balancer, a cache or
// a broken server was seen to. Lies is the list of kinds.
//
// Tests put uploader and readers behind it: whatever the store says, acknowledged data
// stays, no wrong byte is handed out, and every call ends. faultproxy is for faults of the
// network, which tells no lies.
package liar
