package kernel

import (
	"fmt"
	"strings"
	"time"

	"github.com/moby/ipvs"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// The kernel's flags of a service (IP_VS_SVC_F_…), which the library has no names for.
const (
	ipvsPersistent = 0x1
	ipvsHashed     = 0x2 // the kernel's own mark
	ipvsOnePacket  = 0x4
	ipvsScheduler1 = 0x8 // sh-fallback, mh-fallback
	ipvsScheduler2 = 0x10
	ipvsScheduler3 = 0x20
)

// flagNames are those of ipvsadm, in the order of their bits.
func flagNames(scheduler string) map[uint32]string {
	names := map[uint32]string{ipvsOnePacket: "ops", ipvsScheduler1: "flag-1", ipvsScheduler2: "flag-2", ipvsScheduler3: "flag-3"}
	if scheduler == "sh" || scheduler == "mh" {
		names[ipvsScheduler1], names[ipvsScheduler2] = plan.FlagFallback(scheduler), scheduler+"-port"
	}
	return names
}

// putFlags writes flags and persistence into IPVS's own form.
func putFlags(s *ipvs.Service, v plan.VirtualServer) error {
	if v.Persistent < 0 || v.Persistent%time.Second != 0 {
		return fmt.Errorf("persistence of %s: %w", v.Persistent, unix.EINVAL)
	}
	if v.Persistent > 0 {
		s.Flags |= ipvsPersistent
		s.Timeout = uint32(v.Persistent / time.Second)
	}
	for word := range strings.SplitSeq(v.Flags, ",") {
		bit := uint32(0)
		for b, name := range flagNames(v.Scheduler) {
			if name == word {
				bit = b
			}
		}
		if bit == 0 && word != "" {
			return fmt.Errorf("flag %q: %w", word, unix.EINVAL)
		}
		s.Flags |= bit
	}
	return nil
}

// readFlags is the inverse. What no plan has is a flag too: the server then differs from
// every wanted one, and is mended.
func readFlags(v *plan.VirtualServer, s *ipvs.Service) {
	if s.Flags&ipvsPersistent != 0 {
		v.Persistent = time.Duration(s.Timeout) * time.Second
	}
	var words []string
	names := flagNames(s.SchedName)
	for bit := uint32(1); bit != 0; bit <<= 1 {
		switch {
		case s.Flags&bit == 0 || bit == ipvsPersistent || bit == ipvsHashed:
		case names[bit] != "":
			words = append(words, names[bit])
		default:
			words = append(words, fmt.Sprintf("%#x", bit))
		}
	}
	if whole := service(virtualKey(*v)).Netmask; s.Netmask != whole {
		words = append(words, fmt.Sprintf("netmask=%#x", s.Netmask))
	}
	v.Flags = strings.Join(words, ",")
}
