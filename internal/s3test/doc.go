// Package s3test runs a real S3 server, versitygw or MinIO, as a child process
// on loopback. System tests and `pollux bench` use it: tests need the races,
// kills and restarts of the real thing, and numbers need a server whose cost is
// known. Neither server is part of the product.
//
// A server never outlives its parent, however that ends; its port and data stay
// the same over Kill and Restart. The program comes from $POLLUX_TOOLS_DIR or
// the user's cache, else it is built once from the nested module tools of the
// source checkout.
package s3test
