package mesh

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestNames(t *testing.T) {
	for _, bad := range []string{
		"", "a;b", "$(x)", `"`, "a\nb", "a\n", "..", "a..b", "-a", "a-", ".a", "a.", "_a", "a b", "a/b", "../x", "é", "a\x00", "`x`", "{", "a,b", "@x", "#", "a*",
		strings.Repeat("a", nameLimit+1),
	} {
		if err := ValidateName("service", bad); ReasonOf(err) != BadName {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, good := range []string{"a", "web", "Web-1", "a_b.c", "0", strings.Repeat("a", nameLimit)} {
		if err := ValidateName("service", good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
}

func TestRecordRefusals(t *testing.T) {
	a := testID[NodeID]('a', 1)
	node := func(edit func(*Node)) Record { n := testNode(1); edit(n); return NodeRecord(n) }
	service := func(edit func(*Service)) Record { s := testService(1, tcp(80)); edit(s); return ServiceRecord(s) }
	endpoint := func(edit func(*Endpoint)) Record {
		e := testEndpoint(1, 1, 1)
		e.Attached = []Attachment{{IngressNetwork, netip.MustParseAddr("198.18.0.5"), netip.MustParseAddr("fd00::5")}}
		edit(e)
		return EndpointRecord(e)
	}
	network := func(edit func(*Network)) Record {
		n := NewIngress(DefaultIngress(), DefaultPool(), 7)
		edit(n)
		return NetworkRecord(n)
	}
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	claimed := func(time uint64) Block {
		return Block{Network: IngressNetwork, V4: prefix("198.18.0.0/27"), V6: prefix("fd00::/64"), Claim: time}
	}
	long := strings.Repeat("x", 1000)
	for name, c := range map[string]struct {
		record Record
		want   Reason
	}{
		"node":                     {node(func(*Node) {}), ""},
		"service":                  {service(func(*Service) {}), ""},
		"endpoint":                 {endpoint(func(*Endpoint) {}), ""},
		"network":                  {network(func(*Network) {}), ""},
		"node name":                {node(func(n *Node) { n.Name = "a;b" }), BadName},
		"node ID":                  {node(func(n *Node) { n.ID = "../../etc/passwd" }), BadRecord},
		"node of another":          {NodeRecord(testNode(2)), BadRecord},
		"node without address":     {node(func(n *Node) { n.Addr = netip.Addr{} }), BadAddress},
		"node on loopback":         {node(func(n *Node) { n.Addr = addr("127.0.0.1") }), BadAddress},
		"node on multicast":        {node(func(n *Node) { n.Addr = addr("ff02::1") }), BadAddress},
		"node on broadcast":        {node(func(n *Node) { n.Addr = addr("255.255.255.255") }), BadAddress},
		"node on a mapped address": {node(func(n *Node) { n.Addr = addr("::ffff:192.0.2.1") }), BadAddress},
		"node on a zone":           {node(func(n *Node) { n.Addr = addr("fe80::1%eth0") }), BadAddress},
		"node on link-local":       {node(func(n *Node) { n.Addr = addr("fe80::1") }), BadAddress},
		"node without port":        {node(func(n *Node) { n.VXLANPort = 0 }), BadValue},
		"node with one port":       {node(func(n *Node) { n.GossipPort = n.VXLANPort }), BadValue},
		"node with a gossip port":  {node(func(n *Node) { n.GossipPort = 7956 }), ""},
		"node with tiny MTU":       {node(func(n *Node) { n.MTU = 100 }), BadValue},
		"node with negative MTU":   {node(func(n *Node) { n.MTU = -1 }), BadValue},
		"node with huge MTU":       {node(func(n *Node) { n.MTU = 1 << 40 }), BadValue},
		"block of no network":      {node(func(n *Node) { n.Blocks = []Block{{Network: "x", V4: prefix("10.0.0.0/26"), V6: prefix("fd00::/64")}} }), BadRecord},
		"block without prefixes":   {node(func(n *Node) { n.Blocks = []Block{{Network: IngressNetwork}} }), BadRecord},
		"block of another length": {node(func(n *Node) {
			n.Blocks = []Block{{Network: IngressNetwork, V4: prefix("10.0.0.0/26"), V6: prefix("fd00::/48")}}
		}), BadRecord},
		"block of one address": {node(func(n *Node) {
			n.Blocks = []Block{{Network: IngressNetwork, V4: prefix("10.0.0.0/32"), V6: prefix("fd00::/64")}}
		}), BadRecord},
		"too many blocks": {node(func(n *Node) {
			n.Blocks = slices.Repeat([]Block{{Network: IngressNetwork, V4: prefix("10.0.0.0/26"), V6: prefix("fd00::/64")}}, blockLimit+1)
		}), BadRecord},
		"slot of before time":        {node(func(n *Node) { n.Slot = 5 }), BadRecord},
		"slot of the future":         {node(func(n *Node) { n.Slot, n.SlotClaim = 5, 6 }), BadRecord},
		"slot":                       {node(func(n *Node) { n.Slot, n.SlotClaim = 5, 5 }), ""},
		"block of before time":       {node(func(n *Node) { n.Blocks = []Block{claimed(0)} }), BadRecord},
		"block of the future":        {node(func(n *Node) { n.Blocks = []Block{claimed(6)} }), BadRecord},
		"block":                      {node(func(n *Node) { n.Blocks = []Block{claimed(5)} }), ""},
		"held port":                  {node(held(1, func([]HeldPort) {})), ""},
		"held ports, as many as go":  {node(held(heldLimit, func([]HeldPort) {})), ""},
		"too many held ports":        {node(held(heldLimit+1, func([]HeldPort) {})), BadRecord},
		"held ports out of order":    {node(held(2, func(h []HeldPort) { h[0], h[1] = h[1], h[0] })), BadRecord},
		"held port twice":            {node(held(2, func(h []HeldPort) { h[1].Published = h[0].Published })), BadRecord},
		"held port 0":                {node(held(1, func(h []HeldPort) { h[0].Published = 0 })), BadPublish},
		"held by protocol":           {node(held(1, func(h []HeldPort) { h[0].Proto = Proto(long) })), BadPublish},
		"held on any":                {node(held(1, func(h []HeldPort) { h[0].Addr = addr("::") })), BadAddress},
		"held on a zone":             {node(held(1, func(h []HeldPort) { h[0].Addr = addr("2001:db8::1%" + long) })), BadAddress},
		"held by nobody":             {node(held(1, func(h []HeldPort) { h[0].By = "" })), BadRecord},
		"held by a long name":        {node(held(1, func(h []HeldPort) { h[0].By = long })), BadRecord},
		"held by an escape":          {node(held(1, func(h []HeldPort) { h[0].By = "a\x1b[2J" })), BadRecord},
		"held by two lines":          {node(held(1, func(h []HeldPort) { h[0].By = "a\nb" })), BadRecord},
		"held by what is not ASCII":  {node(held(1, func(h []HeldPort) { h[0].By = "a\u202eb" })), BadRecord},
		"service name":               {service(func(s *Service) { s.Name = "$(x)" }), BadName},
		"service scheduler":          {service(func(s *Service) { s.Scheduler = Scheduler(long) }), BadValue},
		"affinity of no time":        {service(func(s *Service) { s.Affinity = 0 }), ""},
		"affinity, shortest":         {service(func(s *Service) { s.Affinity = time.Second }), ""},
		"affinity, longest":          {service(func(s *Service) { s.Affinity = 24 * time.Hour }), ""},
		"affinity before":            {service(func(s *Service) { s.Affinity = -time.Hour }), BadValue},
		"affinity too short":         {service(func(s *Service) { s.Affinity = time.Millisecond }), BadValue},
		"affinity too long":          {service(func(s *Service) { s.Affinity = 24*time.Hour + time.Second }), BadValue},
		"affinity in between":        {service(func(s *Service) { s.Affinity = 1500 * time.Millisecond }), BadValue},
		"service network":            {service(func(s *Service) { s.Networks = []NetworkID{"x"} }), BadRecord},
		"service on ingress by name": {service(func(s *Service) { s.Networks = []NetworkID{IngressNetwork} }), BadValue},
		"service on many networks":   {service(func(s *Service) { s.Networks = slices.Repeat([]NetworkID{testID[NetworkID]('b', 1)}, 10000) }), ""},
		"port 0":                     {service(func(s *Service) { s.Publish[0].Published = 0 }), BadPublish},
		"target 0":                   {service(func(s *Service) { s.Publish[0].Target = 0 }), BadPublish},
		"protocol":                   {service(func(s *Service) { s.Publish[0].Proto = Proto(long) }), BadPublish},
		"published on any":           {service(func(s *Service) { s.Publish[0].Addr = addr("0.0.0.0") }), BadAddress},
		"published on mapped":        {service(func(s *Service) { s.Publish[0].Addr = addr("::ffff:192.0.2.1") }), BadAddress},
		"published on mapped ::1":    {service(func(s *Service) { s.Publish[0].Addr = addr("::ffff:127.0.0.1") }), BadAddress},
		"published on zone":          {service(func(s *Service) { s.Publish[0].Addr = addr("2001:db8::1%" + long) }), BadAddress},
		"published on a zone of ::1": {service(func(s *Service) { s.Publish[0].Addr = addr("::1%eth0") }), BadAddress},
		"published on rules in ::1":  {service(func(s *Service) { s.Publish[0].Addr = addr("::1%x } ;\nflush ruleset #") }), BadAddress},
		"node on rules":              {node(func(n *Node) { n.Addr = addr("fe80::1%x }\n") }), BadAddress},
		"endpoint on a zone":         {endpoint(func(e *Endpoint) { e.Attached[0].V6 = addr("2001:db8::1%x }\n") }), BadRecord},
		"published on loopback":      {service(func(s *Service) { s.Publish[0].Addr = addr("127.0.0.1") }), ""},
		"published twice":            {service(func(s *Service) { s.Publish = append(s.Publish, tcp(80)) }), PortTaken},
		"published on all and on one": {service(func(s *Service) {
			p := tcp(80)
			p.Addr = addr("192.0.2.1")
			s.Publish = append([]PublishedPort{p}, s.Publish...)
		}), PortTaken},
		"too many ports":              {service(func(s *Service) { s.Publish = slices.Repeat(s.Publish, publishLimit+1) }), BadPublish},
		"endpoint name":               {endpoint(func(e *Endpoint) { e.Name = "a\nb" }), BadName},
		"endpoint of another node":    {endpoint(func(e *Endpoint) { e.Node = testID[NodeID]('a', 2) }), BadRecord},
		"endpoint service":            {endpoint(func(e *Endpoint) { e.Service = "" }), BadRecord},
		"endpoint weight 0":           {endpoint(func(e *Endpoint) { e.Weight = 0 }), BadValue},
		"endpoint weight 65536":       {endpoint(func(e *Endpoint) { e.Weight = 65536 }), BadValue},
		"endpoint weight negative":    {endpoint(func(e *Endpoint) { e.Weight = -1 << 62 }), BadValue},
		"endpoint state":              {endpoint(func(e *Endpoint) { e.State = EndpointState(long) }), BadRecord},
		"endpoint on any":             {endpoint(func(e *Endpoint) { e.Attached[0].V4 = addr("0.0.0.0") }), BadRecord},
		"endpoint on loopback":        {endpoint(func(e *Endpoint) { e.Attached[0].V6 = addr("::1") }), BadRecord},
		"endpoint without IPv6":       {endpoint(func(e *Endpoint) { e.Attached[0].V6 = netip.Addr{} }), BadRecord},
		"endpoint twice on a network": {endpoint(func(e *Endpoint) { e.Attached = slices.Repeat(e.Attached, 2) }), BadRecord},
		"endpoint out of order": {endpoint(func(e *Endpoint) {
			b := e.Attached[0]
			b.Network = testID[NetworkID]('b', 1)
			e.Attached = []Attachment{b, e.Attached[0]}
		}), BadRecord},
		"network name":                     {network(func(n *Network) { n.Name = `"` }), BadName},
		"network VNI":                      {network(func(n *Network) { n.VNI = 4096 }), BadRecord},
		"network VNI twice":                {network(func(n *Network) { n.EntryVNI = n.VNI }), BadRecord},
		"network with entry VNI":           {network(func(n *Network) { n.ID = testID[NetworkID]('b', 1) }), BadRecord},
		"network without IPv6":             {network(func(n *Network) { n.Subnet6 = netip.Prefix{} }), BadAddress},
		"network on all of IPv4":           {network(func(n *Network) { n.Subnet4 = prefix("0.0.0.0/0") }), BadAddress},
		"network on the uplink":            {network(func(n *Network) { n.Subnet6 = prefix("fd77::/48") }), BadAddress},
		"network on multicast":             {network(func(n *Network) { n.Subnet6 = prefix("ff02::/48") }), BadAddress},
		"network of one block":             {network(func(n *Network) { n.Bits4 = n.Subnet4.Bits() }), BadValue},
		"network of tiny blocks":           {network(func(n *Network) { n.Bits4 = 31 }), BadValue},
		"network of no blocks":             {network(func(n *Network) { n.Bits4 = -5 }), BadValue},
		"pool on loopback":                 {network(func(n *Network) { n.Pool = prefix("127.0.0.0/8") }), BadAddress},
		"pool on multicast":                {network(func(n *Network) { n.Pool = prefix("224.0.0.0/4") }), BadAddress},
		"pool on link-local":               {network(func(n *Network) { n.Pool = prefix("169.254.0.0/16") }), BadAddress},
		"pool over the ingress":            {network(func(n *Network) { n.Pool = prefix("198.0.0.0/8") }), BadAddress},
		"pool too small":                   {network(func(n *Network) { n.Pool = prefix("10.0.0.0/24") }), BadAddress},
		"nothing":                          {Record{Kind: KindNode, ID: string(a)}, BadRecord},
		"two nouns":                        {Record{Kind: KindNode, ID: string(a), Node: testNode(1), Service: testService(1)}, BadRecord},
		"noun of another kind":             {Record{Kind: KindService, ID: string(a), Node: testNode(1)}, BadRecord},
		"noun of another ID":               {Record{Kind: KindService, ID: string(a), Service: testService(1)}, BadRecord},
		"noun and tombstone":               {Record{Kind: KindNode, ID: string(a), Node: testNode(1), Deleted: true}, BadRecord},
		"kind":                             {Record{Kind: "secret\n" + Kind(long), ID: string(a), Node: testNode(1)}, BadRecord},
		"tombstone of no kind":             {Record{Kind: Kind(long), ID: string(a), Deleted: true}, BadRecord},
		"tombstone":                        {Record{Kind: KindEndpoint, ID: string(a), Deleted: true}, ""},
		"tombstone of the ingress network": {Record{Kind: KindNetwork, ID: string(IngressNetwork), Deleted: true}, BadRecord},
		"tombstone without an ID":          {Record{Kind: KindEndpoint, Deleted: true}, BadRecord},
	} {
		t.Run(name, func(t *testing.T) {
			err := stamped(c.record, 5, a).Validate()
			if ReasonOf(err) != c.want || (err == nil) != (c.want == "") {
				t.Fatalf("got %v", err)
			}
			if err != nil && (len(err.Error()) > 400 || strings.Contains(err.Error(), "\n")) {
				t.Errorf("this goes into a log: %q", err)
			}
		})
	}
	good := stamped(ServiceRecord(testService(1)), 5, a)
	for name, edit := range map[string]func(*Record){
		"no time":          func(r *Record) { r.Version.Time = 0 },
		"no claim":         func(r *Record) { r.Claim = 0 },
		"claim after time": func(r *Record) { r.Claim = 6 },
		"no writer":        func(r *Record) { r.Version.Writer = "" },
		"bad writer":       func(r *Record) { r.Version.Writer = NodeID("a\n" + long) },
	} {
		r := good
		edit(&r)
		if err := r.Validate(); ReasonOf(err) != BadRecord || len(err.Error()) > 400 || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Validate puts a service in order once; afterwards it only reads, since others read too.
func TestValidateOrders(t *testing.T) {
	s := testService(1, tcp(90), tcp(80))
	s.Networks = []NetworkID{testID[NetworkID]('b', 2), testID[NetworkID]('b', 1), testID[NetworkID]('b', 2)}
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	if s.Publish[0].Published != 80 || !slices.Equal(s.Networks, []NetworkID{testID[NetworkID]('b', 1), testID[NetworkID]('b', 2)}) {
		t.Errorf("not in order: %+v", s)
	}
	done := make(chan error)
	for range 2 { // the race detector watches
		go func() { done <- s.Validate() }()
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestUses(t *testing.T) {
	s := testService(1)
	s.Networks = []NetworkID{testID[NetworkID]('b', 1)}
	if got := s.Uses(); !slices.Equal(got, s.Networks) {
		t.Errorf("unpublished: %v", got)
	}
	s.Publish = []PublishedPort{tcp(80)}
	if got := s.Uses(); !slices.Equal(got, []NetworkID{IngressNetwork, testID[NetworkID]('b', 1)}) {
		t.Errorf("published: %v", got)
	}
}

func TestRefusal(t *testing.T) {
	err := Refuse(PortTaken, "choose another", "port %d is taken", 80)
	if err.Error() != "port 80 is taken: choose another" || ReasonOf(err) != PortTaken || ReasonOf(nil) != "" {
		t.Errorf("%v", err)
	}
}
