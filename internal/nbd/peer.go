package nbd

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// peerGone says whether the other end of a socket has hung up, without reading
// from it.
func peerGone(nc net.Conn) bool {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return false
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	gone := false
	_ = rc.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(p, 0)
		gone = err == nil && n > 0
	})
	return gone
}

func isUnix(nc net.Conn) bool {
	_, ok := nc.(*net.UnixConn)
	return ok
}

func remoteOf(nc net.Conn) string {
	if a := nc.RemoteAddr(); a != nil && a.String() != "" && a.String() != "@" {
		return a.String()
	}
	return "unix"
}
