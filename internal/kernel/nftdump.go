package kernel

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/nftables"
	nfnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// askNFT sends one question that the nftables library does not know, or answers
// with less than is needed.
func (n *namespace) askNFT(kind int, f nftables.TableFamily, flags nfnetlink.HeaderFlags, attrs []byte) ([]nfnetlink.Message, error) {
	if _, err := n.nftConn(); err != nil {
		return nil, err
	}
	reply, err := n.nft.sock.Execute(nfnetlink.Message{
		Header: nfnetlink.Header{
			Type:  nfnetlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind),
			Flags: nfnetlink.Request | flags,
		},
		Data: append([]byte{byte(f), unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
	if err != nil {
		n.nft.close()
	}
	return reply, err
}

// attributes are those of one answer, behind its nfgenmsg of four bytes.
func attributes(m nfnetlink.Message) (*nfnetlink.AttributeDecoder, error) {
	if len(m.Data) < 4 {
		return nil, errors.New("answer is too short")
	}
	ad, err := nfnetlink.NewAttributeDecoder(m.Data[4:])
	if err == nil {
		ad.ByteOrder = binary.BigEndian
	}
	return ad, err
}

// kernelChain is what can be told of a chain without knowing its rules.
type kernelChain struct {
	hooked  bool
	devices int // that the hook is on, in family netdev
	drops   bool
	rules   int
	sum     [sha256.Size]byte // of the rules as the kernel tells them, in order, without counters
}

// readChains reads the chains of our table of a family, and counts and sums their
// rules. Rules are not understood: the library stops at what it does not know.
func (n *namespace) readChains(f nftables.TableFamily) (map[string]kernelChain, error) {
	return n.chainsOf(f, plan.TableName)
}

// chainsOf is readChains of any table.
func (n *namespace) chainsOf(f nftables.TableFamily, of string) (map[string]kernelChain, error) {
	chains := map[string]kernelChain{}
	reply, err := n.askNFT(unix.NFT_MSG_GETCHAIN, f, nfnetlink.Dump, nil)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	for _, m := range reply {
		table, name, chain, err := decodeChain(m)
		if err != nil {
			return nil, fmt.Errorf("list chains: %w", err)
		}
		if table == of {
			chains[name] = chain
		}
	}
	reply, err = n.askNFT(unix.NFT_MSG_GETRULE, f, nfnetlink.Dump, nameAttribute(of))
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	for _, m := range reply {
		table, name, expressions, err := decodeRule(m)
		if err != nil {
			return nil, fmt.Errorf("list rules: %w", err)
		}
		if table == of {
			c := chains[name]
			c.rules++
			c.sum = sha256.Sum256(append(c.sum[:], expressions...))
			chains[name] = c
		}
	}
	return chains, nil
}

func (n *namespace) readSetNames(f nftables.TableFamily) (map[string]bool, error) {
	reply, err := n.askNFT(unix.NFT_MSG_GETSET, f, nfnetlink.Dump, nameAttribute(plan.TableName))
	if err != nil {
		return nil, fmt.Errorf("list sets: %w", err)
	}
	names := map[string]bool{}
	for _, m := range reply {
		table, name, err := decodeNames(m, unix.NFTA_SET_TABLE, unix.NFTA_SET_NAME)
		if err != nil {
			return nil, fmt.Errorf("list sets: %w", err)
		}
		if table == plan.TableName {
			names[name] = true
		}
	}
	return names, nil
}

// nameAttribute limits a dump to what is in the table.
func nameAttribute(table string) []byte {
	ae := nfnetlink.NewAttributeEncoder()
	ae.String(tableName, table)
	b, _ := ae.Encode() // a name always fits
	return b
}

// decodeNames reads two names out of an answer: the table's and another.
func decodeNames(m nfnetlink.Message, tableKind, nameKind uint16) (table, name string, err error) {
	ad, err := attributes(m)
	if err != nil {
		return "", "", err
	}
	for ad.Next() {
		switch ad.Type() {
		case tableKind:
			table = ad.String()
		case nameKind:
			name = ad.String()
		}
	}
	return table, name, ad.Err()
}

// decodeRule gives what a rule does in the kernel's own bytes, as they would be
// the same on every look: what counters have counted is left out.
func decodeRule(m nfnetlink.Message) (table, chain string, expressions []byte, err error) {
	ad, err := attributes(m)
	if err != nil {
		return "", "", nil, err
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_RULE_TABLE:
			table = ad.String()
		case unix.NFTA_RULE_CHAIN:
			chain = ad.String()
		case unix.NFTA_RULE_EXPRESSIONS:
			ad.Nested(func(list *nfnetlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(func(e *nfnetlink.AttributeDecoder) error {
						expressions = append(expressions, decodeExpression(e)...)
						return nil
					})
				}
				return nil
			})
		}
	}
	return table, chain, expressions, ad.Err()
}

func decodeExpression(e *nfnetlink.AttributeDecoder) []byte {
	var name string
	var data []byte
	for e.Next() {
		switch e.Type() {
		case unix.NFTA_EXPR_NAME:
			name = e.String()
		case unix.NFTA_EXPR_DATA:
			data = e.Bytes()
		}
	}
	if name == "counter" {
		data = nil
	}
	return append([]byte(name+" "), data...)
}

// rulesSum identifies all rules of a table as the kernel holds them.
func rulesSum(chains map[string]kernelChain) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(chains)) {
		c := chains[name]
		if c.rules > 0 {
			fmt.Fprintf(h, "%s %x\n", name, c.sum)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

func decodeChain(m nfnetlink.Message) (table, name string, c kernelChain, err error) {
	ad, err := attributes(m)
	if err != nil {
		return "", "", c, err
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_CHAIN_TABLE:
			table = ad.String()
		case unix.NFTA_CHAIN_NAME:
			name = ad.String()
		case unix.NFTA_CHAIN_POLICY:
			c.drops = ad.Uint32() == 0 // NF_DROP
		case unix.NFTA_CHAIN_HOOK:
			c.hooked = true
			ad.Nested(func(hook *nfnetlink.AttributeDecoder) error {
				c.devices = countDevices(hook)
				return nil
			})
		}
	}
	return table, name, c, ad.Err()
}

// hookDevices is NFTA_HOOK_DEVS, a list of NFTA_HOOK_DEV's like; unix lacks it.
const hookDevices = 4

func countDevices(hook *nfnetlink.AttributeDecoder) int {
	count := 0
	for hook.Next() {
		switch hook.Type() {
		case unix.NFTA_HOOK_DEV:
			return 1
		case hookDevices:
			hook.Nested(func(list *nfnetlink.AttributeDecoder) error {
				for list.Next() {
					count++
				}
				return nil
			})
		}
	}
	return count
}
