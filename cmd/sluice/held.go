package main

import (
	"fmt"
	"net"

	"github.com/spf13/cobra"

	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// warnHeld says on stderr which nodes do not answer on what was published. It was
// published all the same.
func warnHeld(cmd *cobra.Command, held []*sluicev1.HeldPort) {
	for _, h := range held {
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "sluice: %s\n", clean(heldText(h))) // a stderr that does not take it has nobody to tell
	}
}

func heldText(h *sluicev1.HeldPort) string {
	return fmt.Sprintf("%s does not answer on %s: held by %s", h.GetNode(), heldFront(h), h.GetHolder())
}

// heldFront is what a client would dial: 8080/tcp, 192.0.2.1:8080/tcp.
func heldFront(h *sluicev1.HeldPort) string {
	front := number(h.GetPublished())
	if h.GetAddress() != "" {
		front = net.JoinHostPort(h.GetAddress(), front)
	}
	return front + "/" + h.GetProtocol()
}

// heldTable lists held ports of all nodes that are given; nothing where there are none.
func heldTable(p *page, nodes []*sluicev1.Node) {
	var held []*sluicev1.HeldPort
	for _, n := range nodes {
		held = append(held, n.GetHeld()...)
	}
	if len(held) == 0 {
		return
	}
	p.line("")
	p.row("HELD", "ON", "BY")
	for _, h := range held {
		p.row(heldFront(h), h.GetNode(), h.GetHolder())
	}
}
