package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	nfnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// The lock is a table with an owner (Linux 5.12): only the socket that made it may change it, what
// flushes all rules leaves it, and it goes when the socket is closed. So it is made by one of ours that
// does nothing else. The nft program cannot do that; it says what the kernel makes of the rules, in a
// namespace of its own, and our socket sends the same. As nobody else can change the table nothing of it
// is ever read back: it is what this process has loaded, or it is not there.

// lock is the socket that owns the table, and what it has loaded.
type lock struct {
	holder  *namespace // the host; its connection is the owner
	loaded  string     // the table's text; "": none
	missing bool       // this kernel knows no owners
}

// LockLoad is the host's lock, rules and elements, in one transaction.
type LockLoad struct{ Table *plan.Table }

func (l LockLoad) String() string { return "nft table inet " + plan.LockTable }

// lockState is what is known of the lock.
type lockState struct {
	text string // as loaded by us; "": not by us
	left bool   // nothing can or need be done: another process holds it, or there are no owners here
}

// diffLock compares whole texts: what is in it changes with networks alone.
func diffLock(want *plan.Sandbox, have lockState) []Op {
	switch {
	case have.left:
		return nil
	case want.Lock == nil && have.text == "":
		return nil
	case want.Lock == nil:
		return []Op{{Delete, want.Name, LockLoad{&plan.Table{Family: "inet", Name: plan.LockTable}}}}
	case have.text == "":
		return []Op{{Add, want.Name, LockLoad{want.Lock}}}
	case have.text != want.Lock.Ruleset():
		return []Op{{Replace, want.Name, LockLoad{want.Lock}}}
	default:
		return nil
	}
}

// observeLock asks the kernel only where the table is not ours: a host has one, and an agent that is
// about to end may still hold it, or a process of another run directory.
func (k *Kernel) observeLock() (lockState, error) {
	l := &k.lock
	if l.loaded != "" && l.holder.nft.conn == nil {
		l.loaded = "" // the socket failed, and the table went with it
	}
	if l.loaded != "" || l.missing {
		return lockState{text: l.loaded, left: l.missing}, nil
	}
	there, err := k.host.ownerOfLock()
	if isMissing(err) {
		return lockState{left: true}, nil // no nf_tables, which is told elsewhere
	}
	return lockState{left: there == heldByOther}, err
}

// ownership is whose a table is.
type ownership int

const (
	absentTable ownership = iota
	unowned               // somebody made one of this name
	heldByOther           // the kernel would refuse us
)

func (n *namespace) ownerOfLock() (ownership, error) {
	if _, err := n.nftGeneration(); err != nil {
		return absentTable, err
	}
	tables, err := n.askNFT(unix.NFT_MSG_GETTABLE, nftables.TableFamilyINet, nfnetlink.Dump, nil)
	if err != nil {
		return absentTable, fmt.Errorf("look for table inet %s: %w", plan.LockTable, err)
	}
	for _, m := range tables {
		name, owned, err := decodeOwner(m)
		switch {
		case err != nil:
			return absentTable, fmt.Errorf("look for table inet %s: %w", plan.LockTable, err)
		case name == plan.LockTable && owned:
			return heldByOther, nil
		case name == plan.LockTable:
			return unowned, nil
		}
	}
	return absentTable, nil
}

const tableOwner = 2 // NFT_TABLE_F_OWNER

// doLock loads or removes the lock.
func (k *Kernel) doLock(verb Verb, o LockLoad) error {
	l := &k.lock
	if verb == Delete {
		l.close()
		return nil
	}
	messages, err := lockMessages(o.Table)
	if err != nil {
		return fmt.Errorf("make table inet %s: %w", plan.LockTable, err)
	}
	there, err := k.host.ownerOfLock()
	if err != nil {
		return err
	}
	if there == unowned || l.loaded != "" {
		messages = append([]nfnetlink.Message{nftMessage(unix.NFT_MSG_DELTABLE, 0, nameAttribute(plan.LockTable))}, messages...)
	}
	l.holder.own, l.holder.stages = k.own, k.stages
	err = l.holder.transact(messages)
	if err == nil {
		l.loaded = o.Table.Ruleset()
		return nil
	}
	l.close()
	// Before Linux 5.12 no table has an owner, and trying again is of no use.
	l.missing = noOwners(err) && noOwners(tryOwner(l.holder))
	return fmt.Errorf("load table inet %s: %w", plan.LockTable, err)
}

func noOwners(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)
}

func (l *lock) close() {
	l.holder.nft.close()
	l.loaded = ""
}

// lockMessages is the table with all that is in it, as one transaction of its owner.
func lockMessages(t *plan.Table) ([]nfnetlink.Message, error) {
	scratch, err := newScratch()
	if err != nil {
		return nil, err
	}
	defer scratch.close()
	if err := scratch.nftText(t.Skeleton()); err != nil {
		return nil, err
	}
	table := nameAttribute(t.Called())
	messages := []nfnetlink.Message{ownedTable(t.Called())}
	for _, part := range []struct {
		ask, make int
		flags     nfnetlink.HeaderFlags
		keep      []uint16
	}{
		{unix.NFT_MSG_GETSET, unix.NFT_MSG_NEWSET, nfnetlink.Create, []uint16{
			unix.NFTA_SET_TABLE, unix.NFTA_SET_NAME, unix.NFTA_SET_FLAGS, unix.NFTA_SET_KEY_TYPE, unix.NFTA_SET_KEY_LEN, unix.NFTA_SET_DESC, unix.NFTA_SET_USERDATA,
		}},
		{unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_NEWCHAIN, nfnetlink.Create, []uint16{
			unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME, unix.NFTA_CHAIN_HOOK, unix.NFTA_CHAIN_POLICY, unix.NFTA_CHAIN_TYPE,
		}},
		{unix.NFT_MSG_GETRULE, unix.NFT_MSG_NEWRULE, nfnetlink.Create | nfnetlink.Append, []uint16{
			unix.NFTA_RULE_TABLE, unix.NFTA_RULE_CHAIN, unix.NFTA_RULE_EXPRESSIONS, unix.NFTA_RULE_USERDATA,
		}},
	} {
		found, err := scratch.askNFT(part.ask, nftables.TableFamilyINet, nfnetlink.Dump, table)
		if err != nil {
			return nil, err
		}
		for i, m := range found {
			attributes := kept(m, part.keep)
			if part.make == unix.NFT_MSG_NEWSET {
				attributes = appendAttribute(attributes, unix.NFTA_SET_ID, binary.BigEndian.AppendUint32(nil, uint32(i+1)))
			}
			messages = append(messages, nftMessage(part.make, part.flags, attributes))
		}
	}
	return fill(messages, t)
}

// ownedTable makes a table that belongs to the socket which sends this.
func ownedTable(name string) nfnetlink.Message {
	flags := binary.BigEndian.AppendUint32(nil, tableOwner)
	return nftMessage(unix.NFT_MSG_NEWTABLE, nfnetlink.Create, appendAttribute(nameAttribute(name), unix.NFTA_TABLE_FLAGS, flags))
}

// fill adds the elements of a table's sets.
func fill(messages []nfnetlink.Message, t *plan.Table) ([]nfnetlink.Message, error) {
	for _, s := range t.Sets {
		for chunk := range slices.Chunk(s.Elements, nftChunk) {
			m, err := elementMessage(unix.NFT_MSG_NEWSETELEM, nftables.Table{Name: t.Called(), Family: nftables.TableFamilyINet}, s, chunk, elementBytes)
			if err != nil {
				return nil, err
			}
			messages = append(messages, m)
		}
	}
	return messages, nil
}

// kept are the attributes of an answer that say how its object is made.
func kept(m nfnetlink.Message, kinds []uint16) []byte {
	var b []byte
	for _, kind := range kinds {
		if value, ok := attribute(m.Data, nfgenLength, kind); ok {
			b = appendAttribute(b, kind, value)
		}
	}
	return b
}

func nftMessage(kind int, flags nfnetlink.HeaderFlags, attributes []byte) nfnetlink.Message {
	return nfnetlink.Message{
		Header: nfnetlink.Header{
			Type: nfnetlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: nfnetlink.Request | nfnetlink.Acknowledge | flags,
		},
		Data: append([]byte{byte(nftables.TableFamilyINet), unix.NFNETLINK_V0, 0, 0}, attributes...),
	}
}
