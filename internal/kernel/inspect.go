package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/doctor"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// Inspection says what to look for. All paths are absolute.
type Inspection struct {
	RunDir     string
	DataDir    string
	DataFile   string     // in DataDir where an agent has its data
	Advertise  netip.Addr // as for Underlay
	GossipPort uint16
	VXLANPort  uint16
	Balancer   string   // ipvs, nft or auto: what of the kernel must be there
	Respects   bool     // the host's input rules are to be asked about published ports
	Schedulers []string // of IPVS: those in use
	Spare      []string // of IPVS: those that may be used
}

// inspector gathers facts about the host, by handles of its own: it may look while
// another Kernel is at work.
type inspector struct {
	Inspection
	host  *namespace
	facts doctor.Facts
}

// Inspect looks at the host that the calling thread is in, and changes nothing there.
// Features are tried in a network namespace that is gone afterwards; modules that they
// need are loaded. What cannot be read is named in the result. A look takes about a
// second at worst. Safe for concurrent use, and beside a Kernel.
func Inspect(q Inspection) doctor.Facts {
	i := &inspector{Inspection: q}
	i.facts.Features = tryFeatures(trials(q))
	i.facts.Programs = findPrograms()
	i.look("rights", i.rights)
	i.look("run directory", i.runDir)
	i.look("data directory", i.dataDir)
	host, err := openOwn()
	if err != nil {
		i.facts.Unread = append(i.facts.Unread, doctor.Unread{What: "network", Why: err.Error()})
		return i.facts
	}
	i.host = host
	defer host.close()
	inHost := func(f func() error) func() error { return func() error { return host.do(f) } }
	i.look("marks", inHost(i.marks))
	i.look("ports", i.ports)
	i.look("tunnels", i.tunnels)
	i.look("underlay", i.underlay)
	i.look("routes", i.occupied)
	i.look("firewalls", inHost(i.firewalls))
	i.look("rp_filter", inHost(i.reverseFilter))
	i.look("forwarding", inHost(i.forwarding))
	i.look("conntrack", i.conntrack)
	i.look("neighbours", inHost(i.neighbours))
	return i.facts
}

func (i *inspector) look(what string, f func() error) {
	if err := f(); err != nil {
		i.facts.Unread = append(i.facts.Unread, doctor.Unread{What: what, Why: err.Error()})
	}
}

// firewalls looks at other programs' rules, for the ports that other nodes have to reach.
func (i *inspector) firewalls() error {
	found, err := Firewalls(PortUse{"udp", i.VXLANPort}, PortUse{"tcp", i.GossipPort}, PortUse{"udp", i.GossipPort})
	for _, w := range found {
		seen := doctor.Firewall{Table: w.Table, Chains: w.Chains, Forward: doctor.Forward(w.Forward)}
		if w.Unread != nil {
			seen.Unread = w.Unread.Error()
		}
		for _, c := range w.Closed {
			seen.Closed = append(seen.Closed, doctor.Closed{Port: c.String(), Open: c.Open})
		}
		i.facts.Firewalls = append(i.facts.Firewalls, seen)
	}
	return err
}

// openOwn opens the network namespace of the calling thread.
func openOwn() (*namespace, error) {
	fd, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("open own namespace: %w", err)
	}
	n := &namespace{name: plan.HostSandbox, kind: plan.KindHost, fd: fd}
	if n.link, err = netlink.NewHandleAt(fd, unix.NETLINK_ROUTE); err != nil {
		n.close()
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	return n, nil
}

// rights reads the effective capabilities.
func (i *inspector) rights() error {
	i.facts.Rights.UID = os.Geteuid()
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(status)) {
		text, found := strings.CutPrefix(line, "CapEff:")
		if !found {
			continue
		}
		caps, err := strconv.ParseUint(strings.TrimSpace(text), 16, 64)
		i.facts.Rights.NetAdmin = caps&(1<<unix.CAP_NET_ADMIN) != 0
		i.facts.Rights.SysAdmin = caps&(1<<unix.CAP_SYS_ADMIN) != 0
		return err
	}
	return errors.New("no CapEff in status")
}

// marks are the host's objects that carry our mark.
func (i *inspector) marks() error {
	add := func(object string) { i.facts.Marked = append(i.facts.Marked, object) }
	for _, s := range append(slices.Clone(i.facts.RunDir.Sandboxes), i.facts.RunDir.Dead...) {
		add("sandbox " + s)
	}
	for _, name := range []string{SettingsName, CapturesName} {
		file := filepath.Join(i.RunDir, name)
		if _, err := os.Stat(file); err == nil {
			add(file)
		}
	}
	links, err := i.host.list()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Attrs().Alias == plan.LinkAlias {
			add("link " + l.Attrs().Name)
		}
	}
	conn, err := i.host.nftConn()
	if err != nil {
		return err
	}
	tables, err := conn.ListTables()
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == plan.TableName {
			add("table " + familyName(t.Family) + " " + t.Name)
		}
	}
	return nil
}

func (i *inspector) tunnels() error {
	links, err := i.host.list()
	if err != nil {
		return err
	}
	for _, l := range links {
		v, ok := l.(*netlink.Vxlan)
		if !ok || l.Attrs().Alias == plan.LinkAlias {
			continue
		}
		i.facts.Tunnels = append(i.facts.Tunnels, doctor.Tunnel{
			Name: l.Attrs().Name, VNI: uint32(v.VxlanId), Port: uint16(v.Port), External: v.FlowBased,
		})
	}
	return nil
}

func (i *inspector) underlay() error {
	k := &Kernel{host: i.host} // for its questions to the host, which need no more
	addr, mtu, err := k.Underlay(i.Advertise)
	if no, refused := errors.AsType[*Refusal](err); refused {
		i.facts.Underlay.Missing = no.Why
		return nil
	}
	if err != nil {
		return err
	}
	addrs, err := k.HostAddrs()
	if err != nil {
		return err
	}
	i.facts.Underlay.Addr, i.facts.Underlay.MTU = addr, mtu
	for _, a := range addrs {
		if a.Prefix.Addr() == addr {
			i.facts.Underlay.Device = a.Link
		}
	}
	return nil
}

// reverseFilter reads what counts for each card: the greater of its own and that for all.
func (i *inspector) reverseFilter() error {
	links, err := i.host.list()
	if err != nil {
		return err
	}
	everywhere := setting("net/ipv4/conf/all/rp_filter")
	for _, l := range links {
		name := l.Attrs().Name
		if t := l.Type(); t == "veth" || name == "lo" || l.Attrs().Alias == plan.LinkAlias {
			continue
		}
		value := max(everywhere, setting(path.Join("net/ipv4/conf", name, "rp_filter")))
		i.facts.ReverseFilter = append(i.facts.ReverseFilter, doctor.Filter{Device: name, Value: value})
	}
	return nil
}

// setting is a setting of the thread's namespace; "" where there is none.
func setting(key string) string {
	b, err := os.ReadFile(path.Join(procSys, key))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// forwarding tells what the switches are, and were before the agent.
func (i *inspector) forwarding() error {
	home, err := ownHost()
	if err != nil {
		return err
	}
	content, err := readSettings(filepath.Join(i.RunDir, SettingsName))
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		f := doctor.Forwarding{Key: key, Now: setting(key)}
		for _, s := range content.Settings {
			if content.hostID == home && s.Key == key {
				f.Before = s.Before
			}
		}
		i.facts.Forwarding = append(i.facts.Forwarding, f)
	}
	return err
}

// conntrack reads the tables of the host and of every sandbox: published ports fill
// those of the sandboxes.
func (i *inspector) conntrack() error {
	read := func(sandbox string) func() error {
		return func() error {
			count, most := setting("net/netfilter/nf_conntrack_count"), setting("net/netfilter/nf_conntrack_max")
			if count == "" || most == "" {
				return nil // nothing is tracked
			}
			c, err := strconv.Atoi(count)
			m, err2 := strconv.Atoi(most)
			i.facts.Conntrack = append(i.facts.Conntrack, doctor.Conntrack{Sandbox: sandbox, Count: c, Max: m})
			return errors.Join(err, err2)
		}
	}
	err := i.host.do(read(plan.HostSandbox))
	for _, s := range i.facts.RunDir.Sandboxes {
		fd, _, gone := openFile(filepath.Join(i.RunDir, netnsName, s))
		if gone != nil {
			continue // it went meanwhile
		}
		err = errors.Join(err, within(fd, read(s)), fd.Close())
	}
	return err
}

// neighbours reads the tables that all namespaces share. Their limits are seen in the
// first namespace alone.
func (i *inspector) neighbours() error {
	for _, t := range []struct{ family, file string }{{"ipv4", "arp_cache"}, {"ipv6", "ndisc_cache"}} {
		limit, err := strconv.Atoi(setting("net/" + t.family + "/neigh/default/gc_thresh3"))
		if err != nil {
			continue
		}
		text, err := os.ReadFile("/proc/thread-self/net/stat/" + t.file)
		if err != nil {
			return err
		}
		// A line of names, and one of figures for each processor: the first is the same in all.
		_, figures, _ := strings.Cut(string(text), "\n")
		first, _, _ := strings.Cut(strings.TrimSpace(figures), " ")
		entries, err := strconv.ParseInt(first, 16, 64)
		if err != nil {
			return fmt.Errorf("read %s: %w", t.file, err)
		}
		i.facts.Neighbours = append(i.facts.Neighbours, doctor.Neighbours{Family: t.family, Entries: int(entries), Limit: limit})
	}
	return nil
}
