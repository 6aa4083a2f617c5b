package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/google/nftables"
)

// namesTable is the table, in an endpoint's namespace, that leads to a name server aside. It is
// not one of a plan's: it goes by ports that the kernel chose for sockets of this process.
const namesTable = "sluice-names"

// direct: the sockets are where they are asked at.
type direct struct{}

func (direct) port(at netip.AddrPort) netip.AddrPort { return at }

// lead takes away the table of an agent before, which leads elsewhere.
func (direct) lead(n *namespace, _ netip.AddrPort, _, _ uint16) error { return n.forgetNames() }

// aside: the sockets are at ports of the kernel's choice.
type aside struct{}

func (aside) port(at netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(at.Addr(), 0) }

func (aside) lead(n *namespace, at netip.AddrPort, udp, tcp uint16) error {
	rule := func(proto string, port uint16) string {
		return fmt.Sprintf("ip daddr %s %s dport %d dnat to %s:%d", at.Addr(), proto, at.Port(), at.Addr(), port)
	}
	// Named before it is deleted, so that one that is not there is no error.
	text := fmt.Sprintf(`table ip %[1]s
delete table ip %[1]s
table ip %[1]s {
	chain output {
		type nat hook output priority -100; policy accept;
		%[2]s
		%[3]s
	}
}
`, namesTable, rule("udp", udp), rule("tcp", tcp))
	return n.do(func() error { return n.runNFT(text) })
}

// forgetNames removes the table that leads to a name server aside, if there is one.
func (n *namespace) forgetNames() error {
	conn, err := n.nftConn()
	if err != nil {
		return err
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	for _, t := range tables {
		if t.Name != namesTable {
			continue
		}
		conn.DelTable(t)
		if err := conn.Flush(); err != nil && !errors.Is(err, syscall.ENOENT) {
			return fmt.Errorf("delete table %s: %w", namesTable, err)
		}
	}
	return nil
}
