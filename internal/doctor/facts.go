package doctor

import (
	"net/netip"
	"time"
)

// Facts are what was found on a host, and what its agent knows.
type Facts struct {
	Features []Feature
	Programs []Program
	Balancer Balancer
	Rights   Rights
	RunDir   RunDir
	DataDir  DataDir
	Marked   []string // objects on the host that carry our mark, as a person names them

	Ports    []Port
	Tunnels  []Tunnel // VXLAN devices of the host that are not ours
	Underlay Underlay
	Occupied []Occupied
	Claims   []Claim

	Firewalls []Firewall // of other programs

	ReverseFilter []Filter
	Forwarding    []Forwarding
	Conntrack     []Conntrack
	Neighbours    []Neighbours
	Now           time.Time

	Unread []Unread
	Agent  Agent
}

// Unread is what could not be looked at, and why.
type Unread struct{ What, Why string }

// Feature is one that the mesh needs of the kernel.
type Feature struct {
	Name    string
	Missing string // why it cannot be used; empty where it can
	Do      string
	Spare   bool   // nothing here uses it now
	Without string // what the node does without it; empty: it cannot do without
}

// Balancer is what picks endpoints on this host, or would.
type Balancer struct {
	Name string // empty: there would be none
	Why  string
}

// Program is one that the agent runs.
type Program struct {
	Name    string
	Path    string // empty: there is none
	Version string // as it says; empty where nobody asked
}

// Rights are those of this process.
type Rights struct {
	UID                int
	NetAdmin, SysAdmin bool
}

// Dir is a directory, or where it is not there yet, the nearest one above it.
type Dir struct {
	Path       string // of the directory itself
	Exists     bool
	Filesystem string // tmpfs, ext4
	Refused    string // why it cannot be written to; empty where it can
	Free       uint64 // bytes
	FreeInodes uint64
	Inodeless  bool // the file system has no limit of files
}

// RunDir is where sandboxes are mounted.
type RunDir struct {
	Dir
	OwnMounts bool     // this process's mount namespace is not that of PID 1
	Shared    bool     // what is mounted there is seen in other mount namespaces
	Sandboxes []string // network namespaces mounted there
	Dead      []string // files of sandboxes that are no mounted namespace
}

// DataDir is what outlives a reboot.
type DataDir struct {
	Dir
	Holds bool // an agent's data are there
}

// Port is one that the agent, or a tunnel, needs.
type Port struct {
	Use     string // gossip, vxlan
	Proto   string
	Number  uint16
	Holders []Holder
}

// Holder is who has a port.
type Holder struct {
	PID    int    // 0: the kernel itself, as for a tunnel, or a process that is not known
	Name   string // empty where it is not known
	Kernel bool
}

// Tunnel is a VXLAN device.
type Tunnel struct {
	Name     string
	VNI      uint32
	Port     uint16
	External bool // takes packets of all VNIs
}

// Underlay is how other nodes are reached.
type Underlay struct {
	Addr    netip.Addr // invalid: there is none
	Device  string
	MTU     int // bytes
	Missing string
}

// Occupied is a prefix that the host itself reaches somewhere.
type Occupied struct {
	Prefix netip.Prefix
	By     string // "route via 10.0.0.1 dev eth0"
}

// Use is what a claimed prefix is for.
type Use string

// The uses.
const (
	UseUplink  Use = "uplink"  // between the host and ingress-sbox
	UseNetwork Use = "network" // a network's subnet
	UsePool    Use = "pool"    // subnets are taken from it
)

// Claim is a prefix that the mesh uses.
type Claim struct {
	Prefix netip.Prefix
	Use    Use
	Of     string // "network back"
}

// Filter is a device's rp_filter.
type Filter struct {
	Device string
	Value  string
}

// Forwarding is one family's switch.
type Forwarding struct {
	Key    string // net/ipv4/ip_forward
	Now    string // empty: there is none
	Before string // from before the agent changed it; empty where it did not
}

// Conntrack is a namespace's table of connections.
type Conntrack struct {
	Sandbox    string
	Count, Max int
}

// Neighbours is one family's table of neighbours, which all namespaces share.
type Neighbours struct {
	Family  string
	Entries int
	Limit   int // gc_thresh3
}

// Agent is what the agent knows; most of it is empty where none answers.
type Agent struct {
	State   AgentState
	Socket  string
	Why     string // that it does not answer
	PID     int
	Version string

	InCluster bool
	Peers     []Peer
	VNIs      map[uint32]string // of networks, by VNI
	Needs     int               // MTU, bytes: the largest packet of a tunnel; 0 where not known
	Published int               // ports
	Endpoints int               // on this node

	Problems []string // "service web port tcp/8080: NoReadyEndpoint"
	Applied  bool     // a round was made
	Repairs  uint64
	Repaired string // the last repair, and who made it necessary; empty where not known any more

	Differences []string // of the kernel from the plan
	Undiffed    string   // why they are not known; empty where they are

	Ahead       time.Duration // how far the newest record is ahead of this node's clock
	AheadWriter string
}

// AgentState is whether an agent answers.
type AgentState string

// The states of an agent.
const (
	Absent  AgentState = "absent"
	Silent  AgentState = "silent" // there is one, and it does not answer
	Running AgentState = "running"
)

// Peer is another node.
type Peer struct {
	Name  string
	State string // alive, agent-down, gone, silent
	Since time.Time
	MTU   int // bytes, of its underlay
}
