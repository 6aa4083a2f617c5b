package agent

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/mesh"
)

// The functions below say as events what the cluster and the loop know to have changed.

// merged tells of a record that came in the place of another, or of none (the zero Record).
func (c *cluster) merged(was, now mesh.Record) {
	if c.phase != inside {
		return // a whole cluster comes in at once
	}
	c.noteDeparted(was, now)
	who := now
	if now.Deleted {
		who = was
	}
	kind, text := changeOf(was, now)
	if kind == "" {
		return
	}
	if writer := now.Version.Writer; now.Kind != mesh.KindNode || now.ID != string(writer) {
		text = strings.TrimPrefix(text+"; by "+c.nodeName(writer), "; ")
	}
	c.events.add(kind, title(who), text)
}

// title is what events and status call a noun.
func title(r mesh.Record) string {
	switch {
	case r.Node != nil:
		return "node " + r.Node.Name
	case r.Network != nil:
		return "network " + r.Network.Name
	case r.Service != nil:
		return "service " + r.Service.Name
	case r.Endpoint != nil:
		return "endpoint " + r.Endpoint.Name
	default:
		return string(r.Kind) + " " + r.ID
	}
}

// nodeName is a node's name, or its ID where it has no record. The lock is held.
func (c *cluster) nodeName(id mesh.NodeID) string {
	if r, ok := c.state.Get(mesh.Key{Kind: mesh.KindNode, ID: string(id)}); ok && r.Node != nil {
		return r.Node.Name
	}
	return string(id)
}

// kinds are the events of one kind of record.
type kinds struct{ created, changed, deleted EventKind }

func kindsOf(k mesh.Kind) kinds {
	switch k {
	case mesh.KindNode:
		return kinds{NodeJoined, NodeChanged, NodeLeft}
	case mesh.KindNetwork:
		return kinds{NetworkCreated, NetworkChanged, NetworkDeleted}
	case mesh.KindService:
		return kinds{ServiceCreated, ServiceChanged, ServiceDeleted}
	case mesh.KindEndpoint:
		return kinds{EndpointCreated, EndpointChanged, EndpointDeleted}
	default:
		return kinds{}
	}
}

// changeOf says what a new record means; "" where nobody would ask. That a record was
// written again, or claims another slot or block, is no news.
func changeOf(was, now mesh.Record) (EventKind, string) {
	there, of := was.Kind != "" && !was.Deleted, kindsOf(now.Kind)
	switch {
	case now.Deleted && !there:
		return "", ""
	case now.Deleted && now.Kind == mesh.KindNode:
		return of.deleted, "ID " + now.ID // node rm takes it
	case now.Deleted:
		return of.deleted, ""
	case !there:
		return of.created, contentOf(now)
	}
	if was.Endpoint != nil && was.Endpoint.State != now.Endpoint.State && now.Endpoint.State == mesh.Draining {
		return EndpointDraining, ""
	}
	if changed := changed(was, now); changed != "" {
		return of.changed, changed
	}
	return "", ""
}

// contentOf is a new noun in a few words.
func contentOf(r mesh.Record) string {
	switch {
	case r.Node != nil:
		return fmt.Sprintf("ID %s, address %s", r.ID, r.Node.Addr)
	case r.Network != nil:
		return "subnets " + subnetsOf(r.Network)
	case r.Service != nil && len(r.Service.Publish) > 0:
		return "publishes " + ports(r.Service.Publish)
	default:
		return ""
	}
}

// changed names what differs between two live records of one noun, with the new value.
func changed(was, now mesh.Record) string {
	var parts []string
	compare := func(what, a, b string) {
		if a != b {
			parts = append(parts, fmt.Sprintf("%s %s, was %s", what, orNone(b), orNone(a)))
		}
	}
	switch {
	case was.Node != nil && now.Node != nil:
		a, b := was.Node, now.Node
		compare("name", a.Name, b.Name)
		compare("address", a.Addr.String(), b.Addr.String())
		compare("gossip port", fmt.Sprint(a.GossipPort), fmt.Sprint(b.GossipPort))
		compare("VXLAN port", fmt.Sprint(a.VXLANPort), fmt.Sprint(b.VXLANPort))
		compare("MTU", fmt.Sprint(a.MTU), fmt.Sprint(b.MTU))
		compare("held ports", othersPorts(a), othersPorts(b))
	case was.Network != nil && now.Network != nil:
		a, b := was.Network, now.Network
		compare("name", a.Name, b.Name)
		compare("subnets", subnetsOf(a), subnetsOf(b))
		compare("pool", a.Pool.String(), b.Pool.String())
	case was.Service != nil && now.Service != nil:
		a, b := was.Service, now.Service
		compare("name", a.Name, b.Name)
		compare("ports", ports(a.Publish), ports(b.Publish))
		compare("networks", fmt.Sprint(len(a.Networks)), fmt.Sprint(len(b.Networks)))
		compare("scheduler", string(a.Scheduler), string(b.Scheduler))
		compare("affinity", affinityText(a.Affinity), affinityText(b.Affinity))
	case was.Endpoint != nil && now.Endpoint != nil:
		a, b := was.Endpoint, now.Endpoint
		compare("name", a.Name, b.Name)
		compare("state", string(a.State), string(b.State))
		compare("weight", fmt.Sprint(a.Weight), fmt.Sprint(b.Weight))
		compare("addresses", addressesOf(a), addressesOf(b))
	}
	return strings.Join(parts, "; ")
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func ports(list []mesh.PublishedPort) string {
	texts := make([]string, len(list))
	for i, p := range list {
		texts[i] = p.String()
	}
	return strings.Join(texts, " ")
}

func subnetsOf(n *mesh.Network) string { return strings.Join(prefixTexts(n.Subnets()), " ") }

func addressesOf(e *mesh.Endpoint) string {
	var texts []string
	for _, a := range e.Attached {
		texts = append(texts, a.V4.String(), a.V6.String())
	}
	return strings.Join(texts, " ")
}

// tellHeard tells that gossip began or ceased to hear a node. The lock is held.
func (c *cluster) tellHeard(id mesh.NodeID, o observation) {
	if c.phase != inside {
		return
	}
	kind, text := NodeSilent, "gossip does not hear it; its kernel goes on without its agent"
	if o.alive {
		kind, text = NodeAlive, "gossip hears it"
	}
	c.events.add(kind, "node "+c.nodeName(id), text)
}

// presence tells what a node's kernel has been found to do, where gossip does not hear the node.
func (e *events) presence(node string, p presence) {
	switch p {
	case presenceAgentDown:
		e.add(NodeAgentDown, "node "+node, "its kernel answers; its endpoints go on")
	case presenceGone:
		e.add(NodeGone, "node "+node, "its kernel does not answer either; its endpoints get nothing from here")
	case presenceAlive, presenceSilent: // tellHeard says it
	}
}

// repaired tells that an op put back what somebody had changed.
func (e *events) repaired(op kernel.Op, by string) {
	how := map[kernel.Verb]string{kernel.Add: "made again", kernel.Replace: "set again", kernel.Delete: "removed again"}
	e.add(ObjectRepaired, op.Sandbox+": "+op.Object.String(), how[op.Verb]+"; changed by "+by)
}

// problems tells which problems began and ended between two rounds.
func (e *events) problems(before, now map[problemKey]problem) {
	tell := func(kind EventKind, all, known map[problemKey]problem) {
		for _, k := range slices.SortedFunc(maps.Keys(all), problemKey.compare) {
			if _, ok := known[k]; !ok {
				e.add(kind, k.object, fmt.Sprintf("%s: %s", k.reason, all[k].detail))
			}
		}
	}
	tell(ProblemEnded, before, now)
	tell(ProblemBegan, now, before)
}

func (k problemKey) compare(other problemKey) int {
	if c := strings.Compare(k.object, other.object); c != 0 {
		return c
	}
	return strings.Compare(k.reason, other.reason)
}

const keyStarts = "starts"

// countStart counts the starts of agents with this store, and returns the number of this one.
func (s *store) countStart() (n uint64, err error) {
	err = s.write(func(tx *bolt.Tx) error {
		meta := bucket(tx, bucketMeta)
		if raw := meta.Get([]byte(keyStarts)); len(raw) == 8 {
			n = binary.BigEndian.Uint64(raw)
		}
		n++
		return meta.Put([]byte(keyStarts), binary.BigEndian.AppendUint64(nil, n))
	})
	return n, err
}

// othersPorts names the ports that a node does not answer on, and who has them there.
func othersPorts(n *mesh.Node) string {
	texts := make([]string, len(n.Held))
	for i, h := range n.Held {
		texts[i] = h.Port().Front() + " by " + h.By
	}
	return strings.Join(texts, ", ")
}
