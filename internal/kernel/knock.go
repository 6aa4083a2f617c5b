package kernel

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
)

// Knock tells whether the kernel of the machine at an address answers who dials a TCP port:
// accepting and refusing are both answers. An error means that nothing can be asked from
// here, and says nothing about the other one. Safe beside Apply.
func (k *Kernel) Knock(ctx context.Context, to netip.AddrPort) (answered bool, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", to.String())
	var timeout net.Error
	switch {
	case err == nil:
		return true, conn.Close()
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return true, nil
	case errors.Is(err, syscall.EHOSTUNREACH), errors.As(err, &timeout) && timeout.Timeout():
		return false, nil
	default:
		return false, err
	}
}
