package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/google/nftables"
	nfnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// dumpRoom is the room for one message of a dump, in bytes. The kernel fills as much as
// the reader was seen to have room for, up to 32 kB, and for each message it walks the
// whole set up to where it stood: a page at a time, as the library reads, a set of 20,000
// elements takes ten times as long.
const dumpRoom = 64 << 10

// readElements gives the elements of a set to each. What it gives is good only meanwhile.
func (n *namespace) readElements(t *nftables.Table, set string, each func(rawElement) error) error {
	names := nfnetlink.NewAttributeEncoder()
	names.String(unix.NFTA_SET_ELEM_LIST_TABLE, t.Name)
	names.String(unix.NFTA_SET_ELEM_LIST_SET, set)
	attrs, err := names.Encode()
	if err != nil {
		return err
	}
	return n.dump(unix.NFT_MSG_GETSETELEM, t.Family, attrs, func(data []byte) error {
		return eachAttribute(data, unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(list []byte) error {
			return eachAttribute(list, unix.NFTA_LIST_ELEM, func(element []byte) error {
				e, err := elementOf(element)
				if err != nil {
					return err
				}
				return each(e)
			})
		})
	})
}

// elementOf takes key and value out of an element's attributes.
func elementOf(element []byte) (e rawElement, err error) {
	value := func(into *[]byte) func([]byte) error {
		return func(data []byte) error {
			return eachAttribute(data, unix.NFTA_DATA_VALUE, func(v []byte) error { *into = v; return nil })
		}
	}
	err = errors.Join(
		eachAttribute(element, unix.NFTA_SET_ELEM_KEY, value(&e.key)),
		eachAttribute(element, setElemKeyEnd, value(&e.end)),
		eachAttribute(element, unix.NFTA_SET_ELEM_DATA, value(&e.value)),
	)
	return e, err
}

// eachAttribute calls f with the value of each attribute of a type.
func eachAttribute(b []byte, kind uint16, f func(value []byte) error) error {
	for len(b) >= unix.SizeofNlAttr {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofNlAttr || length > len(b) {
			return errors.New("attribute is longer than its message")
		}
		if binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER) == kind {
			if err := f(b[unix.SizeofNlAttr:length]); err != nil {
				return err
			}
		}
		b = b[min((length+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1), len(b)):]
	}
	return nil
}

// dump asks one question with many answers and gives each answer's attributes to f.
// After an error the connection is not used again.
func (n *namespace) dump(kind int, family nftables.TableFamily, attrs []byte, f func([]byte) error) (err error) {
	if _, err := n.nftConn(); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			n.nft.close()
		}
	}()
	asked, err := n.nft.sock.Send(nfnetlink.Message{
		Header: nfnetlink.Header{
			Type:  nfnetlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind),
			Flags: nfnetlink.Request | nfnetlink.Dump,
		},
		Data: append([]byte{byte(family), unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
	if err != nil {
		return err
	}
	buffer := make([]byte, dumpRoom)
	for done := false; !done; {
		messages, err := n.receiveNFT(buffer)
		if err != nil {
			return err
		}
		for _, m := range messages {
			if m.Header.Seq != asked.Header.Sequence {
				continue // of an earlier question
			}
			if done, err = answerTo(m, f); done || err != nil {
				break
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// answerTo takes in one message of a dump; done tells that it was the last.
func answerTo(m syscall.NetlinkMessage, f func([]byte) error) (done bool, err error) {
	switch m.Header.Type {
	case unix.NLMSG_DONE, unix.NLMSG_ERROR:
		if len(m.Data) >= 4 {
			if code := int32(binary.NativeEndian.Uint32(m.Data)); code < 0 {
				return true, syscall.Errno(-code)
			}
		}
		return true, nil
	case unix.NLMSG_NOOP:
		return false, nil
	}
	if len(m.Data) < nfgenLength {
		return true, errors.New("answer is too short")
	}
	return false, f(m.Data[nfgenLength:])
}

// receiveNFT waits for messages, as long as the connection's deadline says.
func (n *namespace) receiveNFT(buffer []byte) ([]syscall.NetlinkMessage, error) {
	raw, err := n.nft.sock.SyscallConn()
	if err != nil {
		return nil, err
	}
	length, failed := 0, error(nil)
	err = raw.Read(func(fd uintptr) bool {
		for {
			length, _, failed = unix.Recvfrom(int(fd), buffer, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
			if !errors.Is(failed, unix.EINTR) {
				return !errors.Is(failed, unix.EAGAIN)
			}
		}
	})
	switch {
	case err != nil:
		return nil, err
	case failed != nil:
		return nil, failed
	case length > len(buffer):
		return nil, fmt.Errorf("a message of %d bytes, there is room for %d", length, len(buffer))
	}
	return syscall.ParseNetlinkMessage(buffer[:length])
}
