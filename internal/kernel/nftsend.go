package kernel

import (
	"encoding/binary"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/google/nftables"
	nfnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// sendElements sends a change in one transaction: all that goes first. Messages are made
// here, as the library takes five times as long for ten thousands of elements.
func (n *namespace) sendElements(c ElementChange) error {
	family, err := familyOf(c.Family)
	if err != nil {
		return err
	}
	table := nftables.Table{Name: plan.TableName, Family: family}
	var gone, come []nfnetlink.Message
	for i := range c.Sets {
		set := &c.Sets[i].Set
		for chunk := range slices.Chunk(c.Sets[i].Gone, nftChunk) {
			// The kernel finds an element by its key, and knows it by that alone.
			m, err := elementMessage(unix.NFT_MSG_DELSETELEM, table, set, chunk, keyBytes)
			if err != nil {
				return err
			}
			gone = append(gone, m)
		}
		for chunk := range slices.Chunk(c.Sets[i].Come, nftChunk) {
			m, err := elementMessage(unix.NFT_MSG_NEWSETELEM, table, set, chunk, elementBytes)
			if err != nil {
				return err
			}
			come = append(come, m)
		}
	}
	return n.transact(append(gone, come...))
}

// elementMessage is one message about some elements of one set.
func elementMessage(kind int, in nftables.Table, set *plan.Set, elements []plan.Element,
	encode func(*plan.Set, plan.Element) (rawElement, error),
) (m nfnetlink.Message, err error) {
	const roughly = 100 // bytes of an element
	b := make([]byte, 0, 100+roughly*len(elements))
	b = append(b, byte(in.Family), unix.NFNETLINK_V0, 0, 0)
	b = appendAttribute(b, unix.NFTA_SET_ELEM_LIST_TABLE, append([]byte(in.Name), 0))
	b = appendAttribute(b, unix.NFTA_SET_ELEM_LIST_SET, append([]byte(set.Name), 0))
	b, list := openAttribute(b, unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	for _, e := range elements {
		raw, err := encode(set, e)
		if err != nil {
			return m, err
		}
		var element int
		b, element = openAttribute(b, unix.NFTA_LIST_ELEM)
		b = appendValue(b, unix.NFTA_SET_ELEM_KEY, raw.key)
		if raw.end != nil {
			b = appendValue(b, setElemKeyEnd, raw.end)
		}
		if raw.value != nil {
			b = appendValue(b, unix.NFTA_SET_ELEM_DATA, raw.value)
		}
		closeAttribute(b, element)
	}
	closeAttribute(b, list)
	flags := nfnetlink.Request | nfnetlink.Acknowledge
	if kind == unix.NFT_MSG_NEWSETELEM {
		flags |= nfnetlink.Create
	}
	return nfnetlink.Message{
		Header: nfnetlink.Header{Type: nfnetlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: flags},
		Data:   b,
	}, nil
}

func appendValue(b []byte, kind uint16, value []byte) []byte {
	b, at := openAttribute(b, kind)
	b = appendAttribute(b, unix.NFTA_DATA_VALUE, value)
	closeAttribute(b, at)
	return b
}

func appendAttribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofNlAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, padding(len(value)))...)
}

// openAttribute begins an attribute of attributes; closeAttribute, given where it began,
// gives it its length.
func openAttribute(b []byte, kind uint16) (after []byte, at int) {
	at = len(b)
	return appendAttribute(b, kind|unix.NLA_F_NESTED, nil), at
}

func closeAttribute(b []byte, at int) { binary.NativeEndian.PutUint16(b[at:], uint16(len(b)-at)) }

// transact sends messages as one transaction and waits until the kernel has acknowledged
// each of them. After an error nobody knows how many answers are still to come, so the
// connection is not used again.
func (n *namespace) transact(messages []nfnetlink.Message) (err error) {
	if len(messages) == 0 {
		return nil
	}
	if _, err := n.nftConn(); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			n.nft.close()
		}
	}()
	if err := n.nft.sock.SetDeadline(time.Now().Add(nftLoadWait)); err != nil { // ten thousands of ranges take seconds
		return fmt.Errorf("set nft deadline: %w", err)
	}
	limit := func(kind uint16) nfnetlink.Message {
		return nfnetlink.Message{
			Header: nfnetlink.Header{Type: nfnetlink.HeaderType(kind), Flags: nfnetlink.Request},
			Data:   binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}, unix.NFNL_SUBSYS_NFTABLES),
		}
	}
	batch := append([]nfnetlink.Message{limit(unix.NFNL_MSG_BATCH_BEGIN)}, messages...)
	if _, err := n.nft.sock.SendMessages(append(batch, limit(unix.NFNL_MSG_BATCH_END))); err != nil {
		return err
	}
	buffer := make([]byte, dumpRoom)
	for left := len(messages); left > 0; {
		answers, err := n.receiveNFT(buffer)
		if err != nil {
			return err
		}
		for _, a := range answers {
			if a.Header.Type != unix.NLMSG_ERROR || len(a.Data) < 4 {
				continue
			}
			if code := int32(binary.NativeEndian.Uint32(a.Data)); code < 0 {
				return syscall.Errno(-code)
			}
			left--
		}
	}
	return nil
}
