package mesh

import (
	"cmp"
	"slices"
	"strings"
)

// Limits of what an endpoint asks of one network. All of it is in a record that every node keeps.
const (
	aliasLimit      = 32
	sysctlLimit     = 32
	sysctlKeyLimit  = 32
	sysctlTextLimit = 64
	interfaceLimit  = 15 // characters: the kernel's, less the one that ends a text
	gatewayLimit    = 1 << 31
)

// validateJoined refuses what no node can build.
func (e *Endpoint) validateJoined() error {
	if len(e.Joined) > networkLimit {
		return Refuse(BadValue, "leave some", "endpoint %s asks something of %d networks, the limit is %d", e.Name, len(e.Joined), networkLimit)
	}
	devices := map[string]bool{}
	for i, j := range e.Joined {
		if i > 0 && j.Network <= e.Joined[i-1].Network {
			return Refuse(BadRecord, "update the node that wrote it", "endpoint %s has joined networks that are not sorted, one each", e.Name)
		}
		if err := j.Validate(); err != nil {
			return err
		}
		if j.Interface != "" && devices[j.Interface] {
			return Refuse(BadValue, "give each interface a name of its own", "endpoint %s is to have two interfaces %s", e.Name, j.Interface)
		}
		devices[j.Interface] = true
	}
	return nil
}

// Validate refuses what cannot be asked of a network.
func (j Joined) Validate() error {
	if err := validID(string(j.Network)); err != nil {
		return err
	}
	if j.Network == IngressNetwork {
		return Refuse(BadValue, "publish a port of its service instead: that puts the endpoint on it", "an endpoint cannot join the ingress network")
	}
	if j.MAC != [6]byte{} && j.MAC[0]&1 != 0 {
		return Refuse(BadAddress, "give the address of one device: the first byte is even", "%x is a hardware address of many", j.MAC)
	}
	if j.Interface != "" {
		if err := ValidateInterface(j.Interface); err != nil {
			return err
		}
	}
	if int64(j.Gateway) >= gatewayLimit || int64(j.Gateway) <= -gatewayLimit {
		return Refuse(BadValue, "give a number of 32 bits", "gateway priority %d is too great", j.Gateway)
	}
	if err := ValidateAliases(j.Aliases); err != nil {
		return err
	}
	if len(j.Sysctls) > sysctlLimit {
		return Refuse(BadValue, "set the others inside the namespace", "%d settings of one interface are too many, the limit is %d", len(j.Sysctls), sysctlLimit)
	}
	for i, s := range j.Sysctls {
		if err := s.Validate(); err != nil {
			return err
		}
		if i > 0 && compareSysctls(j.Sysctls[i-1], s) >= 0 {
			return Refuse(BadValue, "give each setting once", "settings of one interface are given twice or out of order: %s", s)
		}
	}
	return nil
}

// SortSysctls puts settings in the order that Joined keeps them in.
func SortSysctls(list []InterfaceSysctl) { slices.SortFunc(list, compareSysctls) }

func compareSysctls(a, b InterfaceSysctl) int {
	return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.Table, b.Table), cmp.Compare(a.Key, b.Key))
}

// ValidateInterface refuses the name of a device that the kernel does not take, or that is one of
// the devices that are made in endpoints.
func ValidateInterface(name string) error {
	do := "use 1 to 15 of a-z, A-Z, 0-9, '-', '_' and '.', beginning with a letter or digit"
	if name == "" || len(name) > interfaceLimit || !letterOrDigit(name[0]) {
		return Refuse(BadName, do, "%.40q is no name for an interface", name)
	}
	for i := range len(name) {
		if !letterOrDigit(name[i]) && !strings.ContainsRune("-_.", rune(name[i])) {
			return Refuse(BadName, do, "interface name %q has a character that is not allowed", name)
		}
	}
	// all and default stand for every interface below /proc/sys.
	if name == "lo" || name == "all" || name == "default" || strings.HasPrefix(name, "sl") {
		return Refuse(BadName, "choose another, such as eth0: not lo, all or default, nor one that begins with sl", "interface name %q has a meaning of its own", name)
	}
	return nil
}

// ValidateAliases refuses further names that nobody can be called by, or too many.
func ValidateAliases(names []string) error {
	if len(names) > aliasLimit {
		return Refuse(BadName, "leave some out", "%d aliases are too many, the limit is %d", len(names), aliasLimit)
	}
	for i, name := range names {
		if err := ValidateName("alias", name); err != nil {
			return err
		}
		if i > 0 && names[i-1] >= name {
			return Refuse(BadName, "give each alias once", "alias %q is given twice or out of order", name)
		}
	}
	return nil
}

// String is how the setting is written for an interface of any name.
func (s InterfaceSysctl) String() string {
	return "net." + s.Family + "." + s.Table + ".IFNAME." + s.Key + "=" + s.Value
}

// Validate refuses a setting that is not one interface's own. Family and table are of a list, and
// the key has no separator, so that no path leads out of the interface's directory.
func (s InterfaceSysctl) Validate() error {
	const do = "write it like net.ipv4.conf.IFNAME.forwarding=1, with ipv4 or ipv6, and conf or neigh"
	bad := func() error { return Refuse(BadValue, do, "%.120q is no setting of an interface", s.String()) }
	if s.Family != "ipv4" && s.Family != "ipv6" || s.Table != "conf" && s.Table != "neigh" {
		return bad()
	}
	if s.Key == "" || len(s.Key) > sysctlKeyLimit || s.Value == "" || len(s.Value) > sysctlTextLimit {
		return bad()
	}
	for i := range len(s.Key) {
		if c := s.Key[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return bad()
		}
	}
	for i := range len(s.Value) {
		if c := s.Value[i]; !letterOrDigit(c) && !strings.ContainsRune("-+.:_ ", rune(c)) {
			return bad()
		}
	}
	return nil
}
