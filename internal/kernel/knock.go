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
//
// An address that this host has is nobody else's any more: it was taken over, as a service
// address may be, and would answer for the one that is gone.
func (k *Kernel) Knock(ctx context.Context, to netip.AddrPort) (answered bool, err error) {
	if here, err := k.isLocal(to.Addr()); here || err != nil {
		return false, err
	}
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
