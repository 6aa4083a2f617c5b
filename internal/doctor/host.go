package doctor

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

func features(f *Facts) []Check {
	var all []Check
	for _, feature := range f.Features {
		name := "kernel " + feature.Name
		switch {
		case feature.Missing == "":
			all = append(all, ok(name, "can be used"))
		case feature.Without != "":
			all = append(all, warn(name, feature.Do, "cannot be used: %s; %s", feature.Missing, feature.Without))
		case feature.Spare:
			all = append(all, warn(name, feature.Do, "cannot be used, and nothing uses it now: %s", feature.Missing))
		default:
			all = append(all, fail(name, feature.Do, "cannot be used: %s", feature.Missing))
		}
	}
	return all
}

// balancer says what picks endpoints here, and why that.
func balancer(f *Facts) []Check {
	const name = "balancer"
	switch b := f.Balancer; {
	case b.Name == "":
		return []Check{fail(name, "load the module ip_vs, or start the agent with --balancer auto or nft", "%s", b.Why)}
	case f.Agent.State == Running:
		return []Check{ok(name, "%s (%s)", b.Name, b.Why)}
	default:
		return []Check{ok(name, "an agent would use %s (%s)", b.Name, b.Why)}
	}
}

// nftLeast is the oldest nft that the agent's rules are written for.
const nftLeast = "1.0.6"

func programs(f *Facts) []Check {
	var all []Check
	for _, p := range f.Programs {
		name := "program " + p.Name
		switch {
		case p.Path == "" && p.Name == "nft":
			all = append(all, fail(name, "apt-get install nftables, "+nftLeast+" or newer", "there is none in PATH"))
		case p.Path == "" && p.Name == "modprobe":
			all = append(all, warn(name, "apt-get install kmod, or load the modules ip_vs, ip_vs_*, vxlan and nft_* by hand", "there is none in PATH: modules are not loaded by need"))
		case p.Path == "":
			all = append(all, ok(name, "there is none, and nothing here needs it"))
		case p.Name == "nft" && !atLeast(p.Version, nftLeast):
			all = append(all, fail(name, "install nftables "+nftLeast+" or newer", "%s is version %s", p.Path, cmp.Or(p.Version, "unknown")))
		default:
			all = append(all, ok(name, "%s", strings.TrimSpace(p.Path+" "+p.Version)))
		}
	}
	return all
}

// atLeast compares versions of numbers and dots; what is no such version is not enough.
func atLeast(version, least string) bool {
	have, want := strings.Split(version, "."), strings.Split(least, ".")
	for i, w := range want {
		if i >= len(have) {
			return false
		}
		h, err := strconv.Atoi(have[i])
		n, err2 := strconv.Atoi(w)
		switch {
		case err != nil || err2 != nil:
			return false
		case h != n:
			return h > n
		}
	}
	return true
}

func rights(f *Facts) []Check {
	var lacks []string
	if !f.Rights.NetAdmin {
		lacks = append(lacks, "CAP_NET_ADMIN")
	}
	if !f.Rights.SysAdmin {
		lacks = append(lacks, "CAP_SYS_ADMIN")
	}
	if len(lacks) > 0 {
		return []Check{fail("rights", "run this, and the agent, as root", "uid %d lacks %s", f.Rights.UID, strings.Join(lacks, " and "))}
	}
	return []Check{ok("rights", "uid %d has CAP_NET_ADMIN and CAP_SYS_ADMIN", f.Rights.UID)}
}

func runDir(f *Facts) []Check {
	const name = "run directory"
	d := f.RunDir
	seen := fmt.Sprintf("%s on %s, %s mounted", d.Path, cmp.Or(d.Filesystem, "an unknown file system"), count(len(d.Sandboxes), "sandbox"))
	switch {
	case d.Refused != "":
		return []Check{fail(name, "give the agent another --run-dir, or mount it read-write", "%s cannot be written to: %s", d.Path, d.Refused)}
	case d.OwnMounts && !d.Shared:
		return []Check{fail(name, "start the agent without PrivateMounts, PrivateTmp, Protect* and the like, or make the mount shared: mount --make-shared "+d.Path,
			"%s; the agent has mounts of its own: sandboxes are seen by nobody else, and end with it", seen)}
	case len(d.Dead) > 0 && f.Agent.State == Running:
		return []Check{fail(name, "see sluice status; detach the endpoints that are named there and attach them again", "%s; not mounted any more: %s", seen, listed(d.Dead))}
	case len(d.Dead) > 0:
		return []Check{warn(name, "start the agent, which makes them again, or run sluice reset", "%s; not mounted any more, as after a reboot: %s", seen, listed(d.Dead))}
	case !d.Exists:
		return []Check{ok(name, "%s is not there yet, on %s", d.Path, cmp.Or(d.Filesystem, "an unknown file system"))}
	}
	return []Check{ok(name, "%s", seen)}
}

// The store grows with the cluster's records: some hundred bytes each.
const (
	freeLittle = 256 << 20 // bytes
	freeNone   = 16 << 20
	fewInodes  = 100
)

func dataDir(f *Facts) []Check {
	const name = "data directory"
	d := f.DataDir
	const do = "make room on the file system of the data directory, or give the agent another --data-dir"
	seen := fmt.Sprintf("%s on %s, %d MiB free", d.Path, cmp.Or(d.Filesystem, "an unknown file system"), d.Free>>20)
	switch {
	case d.Refused != "":
		return []Check{fail(name, "give the agent another --data-dir, or mount it read-write", "%s cannot be written to: %s", d.Path, d.Refused)}
	case d.Free < freeNone:
		return []Check{fail(name, do, "%s", seen)}
	case !d.Inodeless && d.FreeInodes < fewInodes:
		return []Check{fail(name, do, "%s, room for %d more files", seen, d.FreeInodes)}
	case d.Free < freeLittle:
		return []Check{warn(name, do, "%s", seen)}
	case d.Filesystem == "tmpfs":
		return []Check{warn(name, "give the agent a --data-dir on a disk", "%s: a reboot takes the node out of its cluster", seen)}
	case !d.Exists:
		return []Check{ok(name, "%s; it is not there yet", seen)}
	}
	return []Check{ok(name, "%s", seen)}
}

// leftovers are objects of ours that belong to no agent's data.
func leftovers(f *Facts) []Check {
	const name = "leftovers"
	switch {
	case f.Agent.State != Absent || f.DataDir.Holds:
		return nil // they are in use
	case len(f.Marked) == 0:
		return []Check{ok(name, "nothing of an earlier agent is here")}
	}
	return []Check{warn(name, "sluice reset, with the --data-dir and --run-dir of the agent that made them",
		"%s has no agent's data, and of an earlier agent are here: %s", f.DataDir.Path, listed(f.Marked))}
}
