package kernel

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/nftables"
	nfnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// Other programs' nft tables are read by netlink, those of iptables among them: no
// program has to be started for a look, and only what matters is understood.

// readForeign lists other programs' tables that have base chains on the hooks
// that concern us. The result is shared with later calls: it is not to be changed.
func (n *namespace) readForeign() ([]*foreignTable, error) {
	legacy, err := n.readLegacy()
	if err != nil {
		return nil, err
	}
	tables, err := n.foreign.refresh(n, n.readForeignNFT)
	if err != nil {
		return nil, fmt.Errorf("read other programs' rules: %w", err)
	}
	return slices.Concat(tables, legacy), nil
}

type nftKey struct{ family, table string }

func (n *namespace) readForeignNFT() ([]*foreignTable, error) {
	found, err := n.foreignChains()
	if err != nil {
		return nil, err
	}
	var tables []*foreignTable
	for key, t := range found {
		if len(t.baseChains(hookForward))+len(t.baseChains(hookInput)) == 0 {
			continue
		}
		if err := n.foreignRules(key, t); err != nil {
			return nil, err
		}
		tables = append(tables, t)
	}
	slices.SortFunc(tables, func(a, b *foreignTable) int {
		return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.Name, b.Name))
	})
	return tables, n.foreignOwners(found)
}

// foreignChains lists the chains of all tables that are not ours.
func (n *namespace) foreignChains() (map[nftKey]*foreignTable, error) {
	reply, err := n.askNFT(unix.NFT_MSG_GETCHAIN, nftables.TableFamilyUnspecified, nfnetlink.Dump, nil)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	found := map[nftKey]*foreignTable{}
	for _, m := range reply {
		family := familyIn(m)
		if family == "" {
			continue
		}
		table, name, c, err := decodeForeignChain(m)
		if err != nil {
			return nil, fmt.Errorf("list chains: %w", err)
		}
		if table == plan.TableName || table == plan.UserTable || table == plan.LockTable {
			continue
		}
		key := nftKey{family, table}
		if found[key] == nil {
			found[key] = &foreignTable{tableRef: tableRef{toolNFT, family, table}, chains: map[string]*foreignChain{}}
		}
		found[key].chains[name] = c
		if builtinHook(name) != "" && c.hook == builtinHook(name) && family != "inet" && slices.Contains(filterTables(), table) {
			found[key].Tool = toolIPTables
		}
	}
	return found, nil
}

// familyIn is the family of a message, where packets of it are forwarded.
func familyIn(m nfnetlink.Message) string {
	if len(m.Data) == 0 {
		return ""
	}
	family := familyName(nftables.TableFamily(m.Data[0]))
	if family == "netdev" {
		return ""
	}
	return family
}

func decodeForeignChain(m nfnetlink.Message) (table, name string, c *foreignChain, err error) {
	ad, err := attributes(m)
	if err != nil {
		return "", "", nil, err
	}
	c = &foreignChain{}
	kind, number := "", uint32(0)
	hooked := false
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_CHAIN_TABLE:
			table = ad.String()
		case unix.NFTA_CHAIN_NAME:
			name = ad.String()
		case unix.NFTA_CHAIN_TYPE:
			kind = ad.String()
		case unix.NFTA_CHAIN_POLICY:
			c.drops = ad.Uint32() == 0 // NF_DROP
		case unix.NFTA_CHAIN_HOOK:
			hooked = true
			ad.Nested(func(h *nfnetlink.AttributeDecoder) error {
				for h.Next() {
					if h.Type() == unix.NFTA_HOOK_HOOKNUM {
						number = h.Uint32()
					}
				}
				return nil
			})
		}
	}
	if hooked && kind == "filter" {
		c.hook = map[uint32]hook{1: hookInput, 2: hookForward}[number] // NF_INET_LOCAL_IN, NF_INET_FORWARD
	}
	return table, name, c, ad.Err()
}

// foreignOwners marks the tables that the kernel lets only one process change.
func (n *namespace) foreignOwners(found map[nftKey]*foreignTable) error {
	reply, err := n.askNFT(unix.NFT_MSG_GETTABLE, nftables.TableFamilyUnspecified, nfnetlink.Dump, nil)
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	for _, m := range reply {
		name, owned, err := decodeOwner(m)
		if err != nil {
			return fmt.Errorf("list tables: %w", err)
		}
		if t := found[nftKey{familyIn(m), name}]; t != nil {
			t.owned = owned
		}
	}
	return nil
}

// decodeOwner gives a table's name, and whether it belongs to a socket.
func decodeOwner(m nfnetlink.Message) (name string, owned bool, err error) {
	ad, err := attributes(m)
	if err != nil {
		return "", false, err
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_TABLE_NAME:
			name = ad.String()
		case unix.NFTA_TABLE_FLAGS:
			owned = ad.Uint32()&tableOwner != 0
		}
	}
	return name, owned, ad.Err()
}

// foreignRules reads the rules of a table into its chains.
func (n *namespace) foreignRules(key nftKey, t *foreignTable) error {
	family, err := familyOf(key.family)
	if err != nil {
		return err
	}
	reply, err := n.askNFT(unix.NFT_MSG_GETRULE, family, nfnetlink.Dump, nameAttribute(key.table))
	if err != nil {
		return fmt.Errorf("list rules of %s: %w", t.tableRef, err)
	}
	for _, m := range reply {
		table, chain, r, err := decodeForeignRule(m)
		if err != nil {
			return fmt.Errorf("list rules of %s: %w", t.tableRef, err)
		}
		if c := t.chains[chain]; c != nil && table == key.table {
			c.rules = append(c.rules, r)
		}
	}
	return nil
}

func decodeForeignRule(m nfnetlink.Message) (table, chain string, r foreignRule, err error) {
	ad, err := attributes(m)
	if err != nil {
		return "", "", r, err
	}
	var s ruleSketch
	var handle uint64
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_RULE_TABLE:
			table = ad.String()
		case unix.NFTA_RULE_CHAIN:
			chain = ad.String()
		case unix.NFTA_RULE_HANDLE:
			handle = ad.Uint64()
		case unix.NFTA_RULE_USERDATA:
			s.comment = cmp.Or(s.comment, userComment(ad.Bytes()))
		case unix.NFTA_RULE_EXPRESSIONS:
			ad.Nested(func(list *nfnetlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(s.expression)
				}
				return nil
			})
		}
	}
	r = s.rule()
	r.handle = handle
	return table, chain, r, ad.Err()
}

// ruleSketch is what is understood of a rule's expressions, one after another.
type ruleSketch struct {
	comment  string
	asks     bool // it has a condition other than one device
	loaded   plan.Direction
	device   plan.Passage
	verdict  verdict
	target   string
	compared bool
}

func (s *ruleSketch) rule() foreignRule {
	switch {
	case s.asks:
		return foreignRule{}
	case s.compared:
		return conditional(s.device, s.comment, s.verdict)
	case s.loaded != "":
		return foreignRule{} // a set of devices, a map
	default:
		return foreignRule{verdict: s.verdict, target: s.target}
	}
}

func (s *ruleSketch) expression(e *nfnetlink.AttributeDecoder) error {
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
	switch name {
	case "counter", "log", "notrack":
		return e.Err()
	case "reject":
		s.verdict = drops
		return e.Err()
	}
	ad, err := nfnetlink.NewAttributeDecoder(data)
	if err != nil {
		return err
	}
	ad.ByteOrder = binary.BigEndian
	switch name {
	case "immediate":
		s.immediate(ad)
	case "meta":
		s.meta(ad)
	case "cmp":
		s.cmp(ad)
	case "match", "target":
		s.extension(name, ad)
	default:
		s.asks = true
	}
	return ad.Err()
}

// immediate is a verdict, or a value for a statement that is not understood.
func (s *ruleSketch) immediate(ad *nfnetlink.AttributeDecoder) {
	found := false
	for ad.Next() {
		if ad.Type() != unix.NFTA_IMMEDIATE_DATA {
			continue
		}
		ad.Nested(func(value *nfnetlink.AttributeDecoder) error {
			for value.Next() {
				if value.Type() == unix.NFTA_DATA_VERDICT {
					found = true
					value.Nested(s.decide)
				}
			}
			return nil
		})
	}
	s.asks = s.asks || !found
}

func (s *ruleSketch) decide(v *nfnetlink.AttributeDecoder) error {
	for v.Next() {
		switch v.Type() {
		case unix.NFTA_VERDICT_CODE:
			switch int32(v.Uint32()) {
			case 0: // NF_DROP
				s.verdict = drops
			case 1: // NF_ACCEPT
				s.verdict = accepts
			case unix.NFT_JUMP:
				s.verdict = jumps
			case unix.NFT_GOTO:
				s.verdict = goesTo
			case unix.NFT_RETURN:
				s.verdict = returns
			default:
				s.asks = true
			}
		case unix.NFTA_VERDICT_CHAIN:
			s.target = v.String()
		}
	}
	return nil
}

// meta loads what is compared next: only a device's name is of interest.
func (s *ruleSketch) meta(ad *nfnetlink.AttributeDecoder) {
	var key uint32
	loads := false
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_META_KEY:
			key = ad.Uint32()
		case unix.NFTA_META_DREG:
			loads = true
		}
	}
	switch {
	case s.loaded != "" || !loads:
		s.asks = true
	case key == unix.NFT_META_IIFNAME:
		s.loaded = plan.In
	case key == unix.NFT_META_OIFNAME:
		s.loaded = plan.Out
	default:
		s.asks = true
	}
}

// cmp compares the device's name: with its ending zero, or only its beginning.
func (s *ruleSketch) cmp(ad *nfnetlink.AttributeDecoder) {
	var op uint32
	var data []byte
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_CMP_OP:
			op = ad.Uint32()
		case unix.NFTA_CMP_DATA:
			ad.Nested(func(value *nfnetlink.AttributeDecoder) error {
				for value.Next() {
					if value.Type() == unix.NFTA_DATA_VALUE {
						data = value.Bytes()
					}
				}
				return nil
			})
		}
	}
	if s.loaded == "" || s.compared || op != unix.NFT_CMP_EQ {
		s.asks = true
		return
	}
	name, _, whole := bytes.Cut(data, []byte{0})
	s.device = plan.Passage{Device: string(name), Direction: s.loaded}
	if !whole {
		s.device.Device += "*"
	}
	s.compared = true
}

// extension is one of iptables' own, as iptables writes them into nft tables.
func (s *ruleSketch) extension(kind string, ad *nfnetlink.AttributeDecoder) {
	var name string
	var info []byte
	for ad.Next() {
		switch ad.Type() { // those of matches and targets are the same
		case unix.NFTA_MATCH_NAME:
			name = ad.String()
		case unix.NFTA_MATCH_INFO:
			info = ad.Bytes()
		}
	}
	switch {
	case kind == "match" && name == "comment":
		s.comment = text(info)
	case kind == "target" && name == "REJECT":
		s.verdict = drops
	case kind == "target" && (name == "LOG" || name == "NFLOG"):
	default:
		s.asks = true
	}
}

// userComment is the comment in what nft keeps beside a rule: type, length, value.
func userComment(data []byte) string {
	const comment = 0
	for len(data) >= 2 {
		kind, length := data[0], int(data[1])
		if length > len(data)-2 {
			return ""
		}
		if kind == comment {
			return text(data[2 : 2+length])
		}
		data = data[2+length:]
	}
	return ""
}
