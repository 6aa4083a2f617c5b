package kernel

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// register is what the fields of a concatenation are padded to, in bytes.
const register = 4

// fieldCodec turns one field's text into the bytes nft keeps and back. Both
// directions know one form only: text that decode would not give is refused, so
// that an element read back always equals the one that was planned.
type fieldCodec struct {
	size   int // bytes, without padding
	encode func(text string) ([]byte, error)
	decode func(b []byte) (string, error)
}

func codecOf(f plan.Field) (fieldCodec, error) {
	switch f {
	case plan.FieldIPv4:
		return fieldCodec{4, encodeAddr, decodeAddr}, nil
	case plan.FieldIPv6:
		return fieldCodec{16, encodeAddr, decodeAddr}, nil
	case plan.FieldMAC:
		return fieldCodec{6, encodeMAC, decodeMAC}, nil
	case plan.FieldProto:
		return fieldCodec{1, encodeProto, decodeProto}, nil
	case plan.FieldPort:
		return fieldCodec{2, encodePort, decodePort}, nil
	case plan.FieldMark:
		return fieldCodec{4, encodeMark, decodeMark}, nil
	case plan.FieldIface:
		return fieldCodec{unix.IFNAMSIZ, encodeIface, decodeIface}, nil
	case plan.FieldTarget:
		return fieldCodec{16, encodeTarget, decodeTarget}, nil
	case plan.FieldZone:
		return fieldCodec{2, encodeZone, decodeZone}, nil
	default:
		return fieldCodec{}, fmt.Errorf("unknown nft type %q", f)
	}
}

// encodeFields is a key or value in the kernel's form. A concatenation's fields
// are each padded to a register, a single field is not.
func encodeFields(fields []plan.Field, text string) ([]byte, error) {
	parts := strings.Split(text, plan.Join("", ""))
	if len(parts) != len(fields) {
		return nil, fmt.Errorf("%q has %d fields, its type %d", text, len(parts), len(fields))
	}
	var out []byte
	for i, f := range fields {
		codec, err := codecOf(f)
		if err != nil {
			return nil, err
		}
		b, err := codec.encode(parts[i])
		if err != nil || len(b) != codec.size {
			return nil, fmt.Errorf("%q is not a %s", parts[i], f)
		}
		if back, err := codec.decode(b); err != nil || back != parts[i] {
			return nil, fmt.Errorf("%q is not how a %s is written (%s)", parts[i], f, back)
		}
		out = append(out, b...)
		if len(fields) > 1 {
			out = append(out, make([]byte, padding(codec.size))...)
		}
	}
	return out, nil
}

// decodeFields is the inverse of encodeFields.
func decodeFields(fields []plan.Field, data []byte) (string, error) {
	parts := make([]string, len(fields))
	for i, f := range fields {
		codec, err := codecOf(f)
		if err != nil {
			return "", err
		}
		size := codec.size
		if len(fields) > 1 {
			size += padding(size)
		}
		if len(data) < size {
			return "", fmt.Errorf("%d bytes are too few for a %s", len(data), f)
		}
		if parts[i], err = codec.decode(data[:codec.size]); err != nil {
			return "", fmt.Errorf("decode %s %x: %w", f, data[:codec.size], err)
		}
		data = data[size:]
	}
	if len(data) > 0 {
		return "", fmt.Errorf("%d bytes more than the type has", len(data))
	}
	return plan.Join(parts...), nil
}

func padding(size int) int { return (register - size%register) % register }

func encodeAddr(s string) ([]byte, error) {
	a, err := netip.ParseAddr(s)
	return a.AsSlice(), err
}

func decodeAddr(b []byte) (string, error) {
	a, _ := netip.AddrFromSlice(b)
	return a.String(), nil
}

func encodeMAC(s string) ([]byte, error) { return net.ParseMAC(s) }

// The all-zero address has a text here, other than in plan.MAC, where it means none.
func decodeMAC(b []byte) (string, error) { return net.HardwareAddr(b).String(), nil }

func encodeProto(s string) ([]byte, error) {
	switch s {
	case "tcp":
		return []byte{unix.IPPROTO_TCP}, nil
	case "udp":
		return []byte{unix.IPPROTO_UDP}, nil
	case "sctp":
		return []byte{unix.IPPROTO_SCTP}, nil
	}
	// Not one of ours, but somebody may have put it in and we take it out.
	n, err := strconv.ParseUint(s, 10, 8)
	return []byte{byte(n)}, err
}

func decodeProto(b []byte) (string, error) {
	switch b[0] {
	case unix.IPPROTO_TCP:
		return "tcp", nil
	case unix.IPPROTO_UDP:
		return "udp", nil
	case unix.IPPROTO_SCTP:
		return "sctp", nil
	}
	return strconv.Itoa(int(b[0])), nil
}

func encodePort(s string) ([]byte, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	return binary.BigEndian.AppendUint16(nil, uint16(n)), err
}

func decodePort(b []byte) (string, error) {
	return strconv.Itoa(int(binary.BigEndian.Uint16(b))), nil
}

// Marks and zones are numbers of this machine, in its own byte order.
func encodeMark(s string) ([]byte, error) {
	n, err := strconv.ParseUint(s, 0, 32)
	return binary.NativeEndian.AppendUint32(nil, uint32(n)), err
}

func decodeMark(b []byte) (string, error) { return plan.HexMark(binary.NativeEndian.Uint32(b)), nil }

func encodeZone(s string) ([]byte, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	return binary.NativeEndian.AppendUint16(nil, uint16(n)), err
}

func decodeZone(b []byte) (string, error) {
	return strconv.Itoa(int(binary.NativeEndian.Uint16(b))), nil
}

func encodeTarget(s string) ([]byte, error) {
	digits, _ := strings.CutPrefix(s, "0x")
	return hex.DecodeString(digits)
}

func decodeTarget(b []byte) (string, error) {
	return plan.TargetText(netip.AddrFrom16([16]byte(b))), nil
}

func encodeIface(s string) ([]byte, error) {
	if len(s) >= unix.IFNAMSIZ {
		return nil, errors.New("too long")
	}
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, s)
	return b, nil
}

// decodeIface refuses what would need quoting in nft syntax, where a star means
// a prefix and some characters end the name. The kernel would take such names.
func decodeIface(b []byte) (string, error) {
	name, rest, ended := bytes.Cut(b, []byte{0})
	if !ended || len(name) == 0 || len(bytes.Trim(rest, "\x00")) > 0 {
		return "", errors.New("not a device name")
	}
	for _, c := range name {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"'\\*/:{};,#$@", c) >= 0 {
			return "", fmt.Errorf("device name with %q", c)
		}
	}
	return string(name), nil
}

// rawElement is an element in the kernel's form. end is nil but in a set with ranges, value
// in a set without values.
type rawElement struct{ key, end, value []byte }

// elementBytes is an element in the kernel's form.
func elementBytes(s *plan.Set, e plan.Element) (raw rawElement, err error) {
	if raw, err = keyBytes(s, e); err != nil {
		return raw, err
	}
	if len(s.Value) == 0 {
		if e.Value != "" {
			return raw, fmt.Errorf("encode element of %s: a set has no values", s.Name)
		}
		return raw, nil
	}
	if raw.value, err = encodeFields(s.Value, e.Value); err != nil {
		return raw, fmt.Errorf("encode value in %s: %w", s.Name, err)
	}
	return raw, nil
}

// keyBytes is an element without its value.
func keyBytes(s *plan.Set, e plan.Element) (raw rawElement, err error) {
	if s.Ranges {
		raw.key, raw.end, err = encodeRange(s.Key, e.Key)
	} else {
		raw.key, err = encodeFields(s.Key, e.Key)
	}
	if err != nil {
		return raw, fmt.Errorf("encode key in %s: %w", s.Name, err)
	}
	return raw, nil
}

// elementText is the inverse of elementBytes.
func elementText(s *plan.Set, raw rawElement) (e plan.Element, err error) {
	if s.Ranges {
		e.Key, err = decodeRange(s.Key, raw.key, raw.end)
	} else {
		e.Key, err = decodeFields(s.Key, raw.key)
	}
	if err != nil {
		return e, err
	}
	if len(s.Value) > 0 {
		e.Value, err = decodeFields(s.Value, raw.value)
	}
	return e, err
}

// checkElements says whether every element is what its type says. It also keeps
// anything else out of rule text, which is where elements are written.
func checkElements(t *plan.Table) error {
	for _, s := range t.Sets {
		if s.Learned > 0 && len(s.Elements) > 0 {
			return fmt.Errorf("set %s learns its elements: a plan has none", s.Name)
		}
		for _, e := range s.Elements {
			if _, err := elementBytes(s, e); err != nil {
				return err
			}
		}
	}
	return nil
}
