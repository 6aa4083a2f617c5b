package kernel

import (
	"cmp"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// A datagram of a flow that conntrack knows goes where the first one of the flow went,
// whatever the rules say later. So when a map of the host's ports loses an element, the UDP flows
// that it has made are deleted in the same round; and when one comes, those that went to the host
// itself before. The next datagram is a first one again. All others stay: the host has flows of
// other programs, and streams notice by themselves.

// captures are what the host's maps of ports led elsewhere, and what has changed in them since
// flows were last looked at. Apply's goroutine uses them.
type captures struct {
	maps       map[string][]plan.Element // as last seen, by map; nil: not known
	gone, came map[capture]bool
	judged     bool // no flow is there whose sender may not dial any more
	bare       bool // there were no rules of ours, and flows that began then may be there

	path     string // where gone and came are kept while rules change
	home     hostID
	kept     string // the file's text; "": there is none
	recalled bool   // gone and came are what another process intended
}

// capture is one element of a map that leads datagrams for ports of the host elsewhere.
type capture struct {
	At          netip.Addr // dialled; the zero value: any of the host's
	First, Last uint16
	To          netip.Addr // the zero value: the uplink's of either family
	Port        uint16     // 0: the one that was dialled
}

// capturing tells whether a map's elements are captures: from an address or any, a protocol and a
// port to an address, with a port or without. The set of ports of the mesh has no value: all lead to
// the uplink.
func capturing(s *plan.Set) bool {
	key, value := s.Key, s.Value
	if s.Name == plan.Published {
		return true
	}
	if len(key) == 3 && isAddr(key[0]) {
		key = key[1:]
	}
	if len(value) == 2 && value[1] == plan.FieldPort {
		value = value[:1]
	}
	return slices.Equal(key, []plan.Field{plan.FieldProto, plan.FieldPort}) && len(value) == 1 && isAddr(value[0])
}

func isAddr(f plan.Field) bool { return f == plan.FieldIPv4 || f == plan.FieldIPv6 }

// captureOf reads an element of such a map; not ok where it is not about datagrams.
func captureOf(e plan.Element) (c capture, ok bool) {
	key, value := strings.Split(e.Key, plan.Join("", "")), strings.Split(e.Value, plan.Join("", ""))
	toUplink := e.Value == ""
	ports := key[len(key)-1]
	if len(key) < 2 || key[len(key)-2] != "udp" {
		return c, false
	}
	first, last, isRange := strings.Cut(ports, "-")
	if !isRange {
		last = first
	}
	var err error
	read := func(text string) uint16 {
		n, fault := strconv.ParseUint(text, 10, 16)
		err = cmp.Or(err, fault)
		return uint16(n)
	}
	c.First, c.Last = read(first), read(last)
	if len(value) == 2 {
		c.Port = read(value[1])
	}
	var faultAt, faultTo error
	if len(key) == 3 {
		c.At, faultAt = netip.ParseAddr(key[0])
	}
	if !toUplink {
		c.To, faultTo = netip.ParseAddr(value[0])
	}
	return c, cmp.Or(err, faultAt, faultTo) == nil
}

// dialled tells whether the sender of a flow dialled what the capture is about.
func (c *capture) dialled(f *tracked) bool {
	port := f.to.Port()
	return port >= c.First && port <= c.Last && (!c.At.IsValid() || f.to.Addr() == c.At)
}

// made tells whether a flow is one that the capture has made.
func (c *capture) made(f *tracked) bool {
	port := f.to.Port()
	if c.Port != 0 {
		port = c.Port
	}
	to := c.To
	if !to.IsValid() {
		to = plan.Uplink4(plan.UplinkSandboxNumber).Addr()
		if f.to.Addr().Is6() {
			to = plan.Uplink6(plan.UplinkSandboxNumber).Addr()
		}
	}
	return c.dialled(f) && f.translated() && f.source == netip.AddrPortFrom(to, port)
}

// missed tells whether a flow is one that the capture would have made, had it come before.
func (c *capture) missed(f *tracked) bool {
	return c.dialled(f) && !f.translated() && (!c.To.IsValid() || f.to.Addr().Is4() == c.To.Is4())
}

// elementsOf are the elements of the host's capturing maps, by map.
func elementsOf(sets []*plan.Set) map[string][]plan.Element {
	found := map[string][]plan.Element{}
	for _, s := range sets {
		if capturing(s) {
			found[s.Name] = s.Elements
		}
	}
	return found
}

// see remembers what the host's rules hold.
func (c *captures) see(tables []loadedTable) {
	for _, t := range tables {
		if t.family == "inet" && t.intact {
			c.maps = elementsOf(t.sets)
		}
	}
}

// follow notes what a change of the host's rules, once made, takes out of the maps and
// brings into them.
func (c *captures) follow(op Op) {
	switch o := op.Object.(type) {
	case ElementChange:
		for i := range o.Sets {
			if capturing(&o.Sets[i].Set) {
				c.note(o.Sets[i].Come, o.Sets[i].Gone)
			}
		}
	case TableLoad:
		if o.Table.Family != "inet" {
			return
		}
		after := map[string][]plan.Element{}
		if op.Verb != Delete {
			after = elementsOf(o.Table.Sets)
		}
		for name, held := range c.maps {
			c.note(tellApart(after[name], held))
		}
		for name, elements := range after {
			if _, known := c.maps[name]; !known || op.Verb == Add { // meanwhile nobody led anything
				c.note(elements, nil)
			}
		}
		c.maps = after
	}
}

// note keeps what came and what went. A host whose rules were flushed may get its maps empty
// first: what went and comes again is none that went.
func (c *captures) note(come, gone []plan.Element) {
	if c.gone == nil {
		c.gone, c.came = map[capture]bool{}, map[capture]bool{}
	}
	move := func(elements []plan.Element, from, to map[capture]bool) {
		for _, e := range elements {
			if one, ok := captureOf(e); ok {
				delete(from, one)
				to[one] = true
			}
		}
	}
	move(gone, c.came, c.gone)
	move(come, c.gone, c.came)
}

// heldCaptures reads the maps of a table that is about to be loaded anew, as an earlier version
// of the agent may have filled them. What cannot be read is nothing that ours would hold.
func (n *namespace) heldCaptures(t *plan.Table) map[string][]plan.Element {
	held := map[string][]plan.Element{}
	for _, s := range t.Sets {
		if !capturing(s) {
			continue
		}
		set, err := n.readSet(&nftables.Table{Name: plan.TableName, Family: nftables.TableFamilyINet}, s.Bare())
		if err != nil {
			n.nft.close() // with answers nobody waits for any more
			continue
		}
		held[s.Name] = set.Elements
	}
	return held
}

// changeHost loads rules or changes elements of the host.
func (k *Kernel) changeHost(op Op) error {
	if load, ok := op.Object.(TableLoad); ok && op.Verb == Replace && k.captures.maps == nil && load.Table.Family == "inet" {
		k.captures.maps = k.host.heldCaptures(load.Table)
	}
	k.loaded = true
	unkept := k.captures.intend(op, k.stages) // what it costs is a flow gone astray, should this process die now
	err := k.host.doNFT(op)
	if err == nil {
		k.captures.follow(op)
		k.captures.judged = k.captures.judged && !judging(op)
		if load, ok := op.Object.(TableLoad); ok && op.Verb == Add && load.Table.Family == "inet" {
			k.captures.bare = true
		}
	}
	return errors.Join(err, unkept)
}

// forgetDeparted forgets the flows that captures have made which are none any more, but for those to
// targets that the plan keeps for what is open, and those that came before a capture did.
func (k *Kernel) forgetDeparted(keep []plan.Flow) error {
	c := &k.captures
	c.settle()
	if len(c.gone)+len(c.came) == 0 {
		return c.drop()
	}
	kept := setOf(keep)
	gone := func(one capture) bool {
		return !kept[plan.Flow{Addr: one.To, Port: one.Port}] && !kept[plan.Flow{Addr: one.To}]
	}
	stale := newStale()
	for one := range c.gone {
		if gone(one) {
			stale.add(one, (*capture).made)
		}
	}
	for one := range c.came {
		stale.add(one, (*capture).missed)
	}
	if err := k.forgetStale(stale); err != nil {
		return err
	}
	maps.DeleteFunc(c.gone, func(one capture, _ bool) bool { return gone(one) })
	clear(c.came)
	return c.keep(c.gone, c.came, k.stages)
}

// stale are the flows to be forgotten, by the ports that were dialled.
type stale struct {
	byPort map[uint16][]test
	ranges []test
}

// test tells of a flow whether a capture makes it one of them.
type test struct {
	capture
	is func(*capture, *tracked) bool
}

func newStale() *stale { return &stale{byPort: map[uint16][]test{}} }

func (s *stale) add(c capture, is func(*capture, *tracked) bool) {
	if c.First == c.Last {
		s.byPort[c.First] = append(s.byPort[c.First], test{c, is})
	} else {
		s.ranges = append(s.ranges, test{c, is})
	}
}

func (s *stale) has(f *tracked) bool {
	is := func(t test) bool { return t.is(&t.capture, f) }
	return f.proto == unix.IPPROTO_UDP && (slices.ContainsFunc(s.byPort[f.to.Port()], is) || slices.ContainsFunc(s.ranges, is))
}

// forgetStale deletes those whose sender dialled an address of the host: others were led by
// somebody else's rule.
func (k *Kernel) forgetStale(s *stale) error {
	if len(s.byPort)+len(s.ranges) == 0 {
		return nil
	}
	flows, err := flowsOf(k.host.fd)
	if err != nil {
		return err
	}
	local := localCache{k: k, known: map[netip.Addr]bool{}}
	var forget []tracked
	for i := range flows {
		f := &flows[i]
		if !s.has(f) {
			continue
		}
		own, err := local.is(f.to.Addr())
		if err != nil {
			return err
		}
		if own {
			forget = append(forget, *f)
		}
	}
	return forgetFlows(k.host.fd, forget)
}

// hostFlows are the targets that a plan keeps flows of the host to.
func hostFlows(p *plan.Plan) []plan.Flow {
	for _, s := range p.Sandboxes {
		if s.Kind == plan.KindHost {
			return s.Flows
		}
	}
	return nil
}
