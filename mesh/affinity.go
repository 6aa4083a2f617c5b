package mesh

import "time"

// AffinityDefault is the Service.Affinity of those who do not say how long; it and the bounds
// are Kubernetes's.
const (
	AffinityDefault  = 3 * time.Hour
	affinityShortest = time.Second
	affinityLongest  = 24 * time.Hour
)

// ValidateAffinity refuses a time that a balancer could not keep a client for. 0 is no affinity.
func ValidateAffinity(d time.Duration) error {
	if d == 0 || d >= affinityShortest && d <= affinityLongest && d%time.Second == 0 {
		return nil
	}
	return Refuse(BadValue, "use whole seconds from 1s to 24h; 3h is usual", "no client can be kept at its endpoint for %s", d)
}
