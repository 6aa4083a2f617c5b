package agent

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sluice-mesh/sluice/mesh"
)

// fromAffinity reads the API's form. What time.Duration has no room for is refused with the rest.
func fromAffinity(d *durationpb.Duration) (time.Duration, error) {
	if err := d.CheckValid(); d != nil && err != nil {
		return 0, mesh.Refuse(mesh.BadValue, "send a valid google.protobuf.Duration", "affinity: %v", err)
	}
	return d.AsDuration(), mesh.ValidateAffinity(d.AsDuration())
}

// affinityText is what an event says of it; "" is none.
func affinityText(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return "client-ip=" + d.String()
}
