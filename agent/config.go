package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// Config is what an operator decides about one agent. The zero value of each
// field stands for the default named beside it.
type Config struct {
	DataDir    string         // /var/lib/sluice; identity, secret and records, only root may read it
	RunDir     string         // /run/sluice; socket and pinned namespaces
	Name       string         // the host name
	Advertise  netip.Addr     // source address of the default route
	GossipPort uint16         // 7956, TCP and UDP
	VXLANPort  uint16         // 4789, UDP
	Socket     string         // RunDir/sluice.sock
	API        netip.AddrPort // none: the API is on the socket alone
	DNS        netip.AddrPort // none: names are told to endpoints alone
	Balancer   BalancerChoice // auto
	Firewall   FirewallChoice // open
	Lock       bool           // the host is held closed while others have taken its rules away

	// KeyRotation is after how long gossip gets another key: 12 h; NoKeyRotation: by command alone.
	// Of nodes that say different times the shortest counts.
	KeyRotation time.Duration

	Log     *slog.Logger
	Version string // shown by status
}

// The defaults of Config.
const (
	DefaultDataDir            = "/var/lib/sluice"
	DefaultRunDir             = "/run/sluice"
	DefaultGossipPort  uint16 = 7956
	DefaultVXLANPort   uint16 = 4789
	DefaultAPIPort     uint16 = 7957 // where a client looks; an agent has no API over TCP unless it is told so
	DefaultKeyRotation        = 12 * time.Hour
	socketName                = "sluice.sock"
	socketGroup               = "sluice"
	socketMaking              = ".new" // ends the socket's name while it is made
	socketLimit               = 107 - len(socketMaking)
)

// NoKeyRotation is a Config.KeyRotation, and keyRotationLeast the shortest time of one: the key
// before is read by for a minute.
const (
	NoKeyRotation    time.Duration = -1
	keyRotationLeast               = 5 * time.Minute
)

// complete returns the configuration with defaults filled in, or a refusal.
func (c Config) complete() (Config, error) {
	if c.DataDir == "" {
		c.DataDir = DefaultDataDir
	}
	if c.RunDir == "" {
		c.RunDir = DefaultRunDir
	}
	if c.GossipPort == 0 {
		c.GossipPort = DefaultGossipPort
	}
	if c.VXLANPort == 0 {
		c.VXLANPort = DefaultVXLANPort
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Balancer == "" {
		c.Balancer = BalancerAuto
	}
	if c.Firewall == "" {
		c.Firewall = FirewallChoice(mesh.FirewallOpen)
	}
	if c.KeyRotation == 0 {
		c.KeyRotation = DefaultKeyRotation
	}
	if c.KeyRotation != NoKeyRotation && c.KeyRotation < keyRotationLeast {
		return c, mesh.Refuse(BadConfig, fmt.Sprintf("give --key-rotation %s or more, or 0 for never", keyRotationLeast), "the keys of gossip cannot be rotated every %s", c.KeyRotation)
	}
	var err error
	if c.Name == "" {
		if c.Name, err = os.Hostname(); err != nil {
			return c, mesh.Refuse(BadConfig, "give --name", "the host name cannot be read (%v)", err)
		}
	}
	if err := mesh.ValidateName("node", c.Name); err != nil {
		return c, fmt.Errorf("read --name: %w", err)
	}
	if err := errors.Join(c.Balancer.validate(), c.Firewall.validate()); err != nil {
		return c, err
	}
	if c.GossipPort == c.VXLANPort {
		return c, mesh.Refuse(BadConfig, "give --gossip-port another number", "gossip and VXLAN are both on port %d", c.VXLANPort)
	}
	if a := c.Advertise; a.IsValid() && (a.Is4In6() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.Zone() != "") {
		return c, mesh.Refuse(mesh.BadAddress, "give --advertise an address that the other nodes reach", "%s is not an address of a node", a)
	}
	if err := c.completeAPI(); err != nil {
		return c, err
	}
	if err := c.completeDNS(); err != nil {
		return c, err
	}
	// A relative path would mean another place to whoever reads it from status.
	for _, dir := range []*string{&c.DataDir, &c.RunDir} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return c, fmt.Errorf("find directory %s: %w", *dir, err)
		}
	}
	if c.Socket == "" {
		c.Socket = filepath.Join(c.RunDir, socketName)
	}
	if len(c.Socket) > socketLimit {
		return c, mesh.Refuse(BadConfig, fmt.Sprintf("give --run-dir a path of at most %d characters", socketLimit-len("/"+socketName)),
			"the path of the socket, %s, is too long for the kernel", c.Socket)
	}
	return c, nil
}

// completeAPI refuses an address that the API cannot be on.
func (c Config) completeAPI() error {
	at := c.API
	switch {
	case at == netip.AddrPort{}:
		return nil
	case !at.IsValid() || at.Port() == 0 || at.Addr().Is4In6() || at.Addr().IsMulticast():
		return mesh.Refuse(BadConfig, "give --api ADDR:PORT, such as 0.0.0.0:7957", "the API cannot be on %s", at)
	case at.Port() == c.GossipPort:
		return mesh.Refuse(BadConfig, "give --api another port", "gossip and the API are both on port %d", at.Port())
	}
	return nil
}

// completeDNS refuses an address that operators cannot ask at.
func (c Config) completeDNS() error {
	at := c.DNS
	switch {
	case at == netip.AddrPort{}:
		return nil
	case !at.IsValid() || at.Port() == 0 || at.Addr().Is4In6() || at.Addr().IsMulticast() || at.Addr().IsUnspecified():
		// An answer by UDP comes from the address that was asked only where there is but one.
		return mesh.Refuse(BadConfig, "give --dns one address of this host and a port, such as 127.0.0.1:5353", "names cannot be told at %s", at)
	case at.Port() == c.GossipPort || at.Port() == c.VXLANPort:
		return mesh.Refuse(BadConfig, "give --dns another port", "names and gossip or VXLAN are both on port %d", at.Port())
	}
	return nil
}
