// Package matrix is what is expected of the base layer, cell by cell: who dials what on which
// kind of bridge network, whether it is reached, and whose address it sees.
//
// The expectations are written by hand from the model; package e2e tries each of them with
// packets, and docs/MATRIX.md is printed from them.
package matrix

import "fmt"

// Asker is who dials.
type Asker string

// The askers.
const (
	Host      Asker = "a process on the host"
	Loopback  Asker = "the same, by loopback"
	Itself    Asker = "the endpoint itself"
	Same      Asker = "an endpoint of the same network"
	Other     Asker = "an endpoint of another bridge"
	Outside   Asker = "a machine outside"
	Forged    Asker = "a machine outside with a route"
	Neighbour Asker = "a neighbour's frame to loopback"
)

// Port is what is dialled.
type Port string

// The ports. Each leads to a port of its own at the endpoint.
const (
	Published   Port = "published"
	Unpublished Port = "unpublished"
	OnLoopback  Port = "published on loopback"
	OnAddress   Port = "published on one address"
	Elsewhere   Port = "published on another address"
)

// Network is a kind of bridge network.
type Network string

// The kinds.
const (
	NAT      Network = "nat"
	Internal Network = "internal"
	Apart    Network = "icc off"
	Routed   Network = "direct routing"
)

// Networks are all kinds, in the order of a Row's columns.
func Networks() []Network { return []Network{NAT, Internal, Apart, Routed} }

// Family is an address family.
type Family string

// The families.
const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

// Want is what should come of dialling.
type Want string

// The outcomes: no packet arrives, or the endpoint answers and saw a source address.
const (
	No      Want = "–"
	Own     Want = "caller"  // the address that the asker sent from
	Gateway Want = "gateway" // of the endpoint's network
	Dialled Want = "dialled" // the host's address that was dialled
)

// Row is one asker and one port on all kinds of network.
type Row struct {
	Asker Asker
	Port  Port
	At    At
	Model string // the lines of the model that say so
	Want  [4]Want
}

// At is the address that is dialled.
type At string

// The addresses.
const (
	AtNode     At = "the host"
	AtSecond   At = "the host's second address"
	AtLoopback At = "127.0.0.1, ::1"
	AtEndpoint At = "the endpoint"
)

// Cell is one thing to try.
type Cell struct {
	Row
	Network Network
	Family  Family
	Proto   string // tcp, udp or sctp
	Want    Want
}

// Name is the same on every run.
func (c Cell) Name() string {
	return fmt.Sprintf("%s, %s, %s at %s, %s %s", c.Network, c.Asker, c.Port, c.At, c.Family, c.Proto)
}

// Cells are those that every kernel can try. Neither the family nor the protocol makes a difference.
func Cells() []Cell { return over("tcp", "udp") }

// SCTP are the same cells over SCTP, for a kernel that has it.
func SCTP() []Cell { return over("sctp") }

// Protocol is one that every row is tried over.
type Protocol struct {
	Name   string
	Cells  []Cell
	Test   string // that tries them
	Kernel string
}

// Protocols are all, in the order of the page.
func Protocols() []Protocol {
	return []Protocol{
		{"tcp", over("tcp"), "TestBase/Matrix", "any"},
		{"udp", over("udp"), "TestBase/Matrix", "any"},
		{"sctp", SCTP(), "TestBaseSCTP/Matrix", "with SCTP: the VM's"},
	}
}

func over(protos ...string) []Cell {
	var cells []Cell
	for i, network := range Networks() {
		for _, row := range Rows() {
			for _, family := range []Family{IPv4, IPv6} {
				for _, proto := range protos {
					cells = append(cells, Cell{row, network, family, proto, row.Want[i]})
				}
			}
		}
	}
	return cells
}
