package agent

import (
	"maps"
	"slices"

	"github.com/sluice-mesh/sluice/mesh"
)

// A record of this node or of an endpoint here may get a tombstone from another node, which took
// this one for gone; see mesh.Record.Validate. The node that lives writes it again.

// contested are the live records of this node's own that others write about in records.
func (c *cluster) contested(records []mesh.Record) []mesh.Record {
	var own []mesh.Record
	for _, r := range records {
		have, ok := c.state.Get(r.Key())
		sole := r.Kind == mesh.KindNode || r.Kind == mesh.KindEndpoint
		if ok && sole && c.phase == inside && !have.Deleted && have.Version.Writer == c.own.ID && r.Version.Writer != c.own.ID {
			own = append(own, have)
		}
	}
	return own
}

// defend writes those again that others have overtaken, and returns fresh with them in the
// place of what others wrote.
func (c *cluster) defend(own, fresh []mesh.Record) []mesh.Record {
	lost := map[mesh.Key]mesh.Record{}
	for _, r := range own {
		if now, _ := c.state.Get(r.Key()); now.Version.Writer != c.own.ID {
			lost[r.Key()] = r
			c.log.Warn("another node wrote a record of this one", "kind", r.Kind, "id", r.ID, "writer", now.Version.Writer)
		}
	}
	if len(lost) == 0 {
		return fresh
	}
	again, err := c.stamp(slices.Collect(maps.Values(lost)))
	if err != nil {
		c.log.Error("a record of this node was not written again", "err", err)
		return fresh
	}
	fresh = slices.DeleteFunc(fresh, func(r mesh.Record) bool { _, ok := lost[r.Key()]; return ok })
	return append(fresh, c.mergeLocked(again)...)
}
