package mesh

// Virtual is the address of a service on an overlay, which stands for its endpoints there. It
// has none on a bridge, on the ingress network, or where its name is answered with endpoints.
func (snap *Snapshot) Virtual(service ServiceID, network NetworkID) (Attachment, bool) {
	s := snap.services[service]
	if s == nil || s.Mode == RoundRobinDNS {
		return Attachment{}, false
	}
	for _, a := range s.Virtual {
		if a.Network == network {
			return a, true
		}
	}
	return Attachment{}, false
}
