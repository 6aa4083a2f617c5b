// Package mesh holds the words of the cluster and the rules by which two views
// of it become one: nodes, networks, services, endpoints, their records, merge,
// and allocation.
//
//	records from here and from peers --Merge--> State --Snapshot--> compilers
//
// It has no I/O, no clock and no goroutine. Time comes in as a number, and
// everything that is chosen (addresses, VNIs, slots) is a pure function of the
// state, so that all nodes choose alike and a restart changes nothing.
package mesh

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"strings"
)

// The IDs of the nouns are random lower-case hex of IDLength characters, made where the noun
// is made. Names are what people use; IDs are what records refer to.
type (
	NodeID     string
	NetworkID  string
	ServiceID  string
	EndpointID string
)

// IDLength is the number of hex characters of an ID.
const IDLength = 16

// IngressNetwork is the ID of the one network that every cluster has.
const IngressNetwork NetworkID = "0000000000000001"

// VNI is a VXLAN network identifier, 24 bits.
type VNI uint32

// Slot is a node's number in the data path: conntrack zone, reply mark and
// tunnel MACs are made from it. 0 means not yet claimed.
type Slot uint16

// Reason is the code of a refusal; API and CLI show it unchanged.
type Reason string

// The reasons of this package.
const (
	BadName       Reason = "BadName"
	BadAddress    Reason = "BadAddress"
	BadPublish    Reason = "BadPublish"
	BadValue      Reason = "BadValue"
	BadRecord     Reason = "BadRecord"
	NameTaken     Reason = "NameTaken"
	NameShadows   Reason = "NameShadows" // one way to write a name would mean two
	PortTaken     Reason = "PortTaken"
	PortReserved  Reason = "PortReserved"
	SubnetTaken   Reason = "SubnetTaken"
	VNITaken      Reason = "VNITaken"
	SlotTaken     Reason = "SlotTaken"
	BlockTaken    Reason = "BlockTaken"
	AddressTaken  Reason = "AddressTaken"
	AddressRests  Reason = "AddressRests"
	NotFound      Reason = "NotFound"
	InUse         Reason = "InUse"
	PoolExhausted Reason = "PoolExhausted"
	Unsupported   Reason = "Unsupported"
)

// Refusal is a "no" with its reason: what was wrong and what to do about it.
type Refusal struct {
	Reason Reason
	Why    string // one clause: `port tcp/8080 is published by service "web"`
	Do     string // one clause for the operator: "choose another port or remove it there"
}

// Error is "why: what to do".
func (r *Refusal) Error() string { return r.Why + ": " + r.Do }

// Refuse makes a Refusal.
func Refuse(reason Reason, do, why string, args ...any) error {
	return &Refusal{Reason: reason, Why: fmt.Sprintf(why, args...), Do: do}
}

// ReasonOf returns the reason of a Refusal in err's chain, or "".
func ReasonOf(err error) Reason {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Reason
	}
	return ""
}

const nameLimit = 63

// ValidateName refuses what is not a DNS label with dots allowed between labels:
// such a name is safe in a file name, a log line and a DNS answer.
func ValidateName(kind, name string) error {
	do := fmt.Sprintf("use 1 to %d of a-z, A-Z, 0-9, '-', '_' and '.', beginning and ending with a letter or digit", nameLimit)
	if name == "" {
		return Refuse(BadName, do, "%s name is empty", kind)
	}
	if len(name) > nameLimit {
		return Refuse(BadName, do, "%s name %.20q… has %d characters", kind, name, len(name))
	}
	for i := range len(name) {
		edge := i == 0 || i == len(name)-1
		if c := name[i]; !letterOrDigit(c) && (edge || !strings.ContainsRune("-_.", rune(c))) {
			return Refuse(BadName, do, "%s name %q has a character that is not allowed", kind, name)
		}
	}
	if strings.Contains(name, "..") {
		return Refuse(BadName, do, "%s name %q has an empty label", kind, name)
	}
	return nil
}

func letterOrDigit(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// validID refuses an ID that is not of our own making: IDs become file and
// sandbox names, and some come from other nodes.
func validID(id string) error {
	if !isHex(id, IDLength) {
		return Refuse(BadRecord, "update the node that wrote it", "ID %.40q is not %d hex digits", id, IDLength)
	}
	return nil
}

// isHex tells whether a text is so many lower-case hex digits.
func isHex(text string, length int) bool {
	ok := len(text) == length
	for i := range len(text) {
		c := text[i]
		ok = ok && (c >= '0' && c <= '9' || c >= 'a' && c <= 'f')
	}
	return ok
}

// Validate refuses an ID that no agent made.
func (id NodeID) Validate() error { return validID(string(id)) }

// hash is the one hash function of all allocation: FNV-1a, 64 bit, over parts.
func hash(parts ...string) uint64 {
	h := fnv.New64a()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return h.Sum64()
}

// validUnicast tells whether a is one host's address and reachable from another.
// Link-local IPv6 needs a zone, which means nothing to another node.
func validUnicast(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && !a.Is4In6() && a.Zone() == "" &&
		(a.Is4() || !a.IsLinkLocalUnicast()) && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// Balancer names what picks an endpoint on a node. It is the node's own affair.
type Balancer string

// The balancers.
const (
	BalancerIPVS Balancer = "ipvs"
	BalancerNFT  Balancer = "nft"
)

// Local is what a node's plan depends on besides the cluster's state.
type Local struct {
	ID         NodeID
	Balancer   Balancer   // "": ipvs
	Firewall   Firewall   // "": open
	Lock       bool       // the host is held closed while its rules are away
	Advertised []string   // devices of the host that learn routes from router advertisements, and would stop to
	OwnBridges []string   // bridges of the host whose subnets other nodes may have too: masqueraded on entry
	Unrouted4  []string   // devices of the host that forwarded no IPv4 before the agent ran: nothing passes between them
	Unrouted6  []string   // the same for IPv6
	Held       []HeldPort // published ports that somebody else on the host has: not captured here

	// Gone are the nodes that nothing can be sent to from here: neither their agent nor
	// their kernel answers. Their records stay, and so do the ways to them.
	Gone map[NodeID]bool
}

// Firewall says what the host's own input rules have to say of published ports.
type Firewall string

// What there is. Open: nothing, a published port is open. Respect: as much as of a port that a
// process of the host has, where packets come from outside.
const (
	FirewallOpen    Firewall = "open"
	FirewallRespect Firewall = "respect"
)
