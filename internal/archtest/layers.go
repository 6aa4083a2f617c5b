package archtest

import (
	"slices"
	"strings"
)

// layer is what the packages below one path may import. Test files are free.
type layer struct {
	path string   // of the package; with "/..." of all below it too
	ours []string // which of our packages; with "/..." as above
	std  bool     // nothing but the standard library beside them
	why  string   // no more
}

// layers is the module's import graph. A package is held by the first that fits.
func layers() []layer {
	compiler := func(path string) layer {
		return layer{
			path: path, ours: []string{"mesh", "internal/plan"}, std: true,
			why: "compilers are pure and do not know each other: a name that two need belongs into internal/plan",
		}
	}
	return []layer{
		{path: "internal/lab/...", ours: []string{"..."}, why: "it serves tests, and may look at everything"},
		{path: "internal/archtest", std: true, why: "it reads the tree and runs nothing of it"},
		{path: "mesh", std: true, why: "mesh is the nouns: everyone may depend on it because it depends on nobody"},
		{path: "internal/plan", std: true, why: "a plan is plain values: what it knew of a service the kernel package would know too"},
		compiler("bridge"),
		compiler("overlay"),
		compiler("ingress"),
		{path: "mesh/gossip", ours: []string{"mesh"}, why: "gossip carries records and does not know what they are for"},
		{path: "bridge/dns", ours: []string{"mesh"}, why: "names come from a snapshot alone"},
		{path: "internal/doctor", std: true, why: "judging is pure: who gathers the facts is no matter to it"},
		{path: "internal/kernel", ours: []string{"internal/plan", "internal/doctor"}, why: "the kernel package sees plans and never a service"},
		{path: "internal/trace", ours: []string{"internal/plan"}, std: true, why: "a packet's way follows from the plan alone"},
		{path: "internal/trust", ours: []string{"mesh"}, std: true, why: "what guards the cluster must be small enough to read"},
		{path: "internal/login", ours: []string{"mesh", "internal/trust"}, std: true, why: "it keeps keys on an operator's disk, and knows no call"},
		{path: "proto/...", ours: []string{"proto/..."}, why: "the wire's types are translated in agent, and used nowhere as nouns"},
		{
			path: "agent/...",
			ours: []string{
				"agent/...", "mesh/...", "bridge/...", "overlay", "ingress", "internal/plan", "internal/kernel",
				"internal/trace", "internal/trust", "internal/doctor", "proto/...",
			},
			why: "the agent wires the product together; the lab is for tests",
		},
		{
			path: "cmd/sluice", ours: []string{"agent", "mesh", "proto/...", "internal/kernel", "internal/trace", "internal/login", "internal/trust"},
			why: "the command line speaks to an agent by its API, and starts one; kernel.Spawn alone is for sluice run, mesh and trust for refusals and logins",
		},
	}
}

// owners lists what only one package (and the lab) may import.
func owners() []struct{ imported, owner, why string } {
	const kernel = "only internal/kernel touches the machine"
	return []struct{ imported, owner, why string }{
		{"github.com/hashicorp/memberlist", "mesh/gossip", "only mesh/gossip speaks gossip"},
		{"github.com/miekg/dns", "bridge/dns", "only bridge/dns speaks DNS"},
		{"github.com/vishvananda/netlink", "internal/kernel", kernel},
		{"github.com/vishvananda/netns", "internal/kernel", kernel},
		{"github.com/mdlayher/netlink", "internal/kernel", kernel},
		{"github.com/google/nftables", "internal/kernel", kernel},
		{"sigs.k8s.io/knftables", "internal/kernel", kernel},
		{"github.com/moby/ipvs", "internal/kernel", kernel},
		{"os/exec", "internal/kernel", "only internal/kernel runs programs"},
	}
}

// forbidden gives why pkg may not import what it imports; "" where it may.
func forbidden(pkg, imported string) string {
	l := layerOf(pkg)
	if l == nil {
		return "" // said once for the package
	}
	if imported == Module || strings.HasPrefix(imported, Module+"/") {
		own := strings.TrimPrefix(strings.TrimPrefix(imported, Module), "/")
		if slices.ContainsFunc(l.ours, func(pattern string) bool { return below(pattern, own) }) {
			return ""
		}
		return l.why
	}
	if strings.HasPrefix(pkg, "internal/lab/") {
		return ""
	}
	for _, o := range owners() {
		if below(o.imported+"/...", imported) && pkg != o.owner {
			return o.why
		}
	}
	if first, _, _ := strings.Cut(imported, "/"); l.std && strings.Contains(first, ".") {
		return l.why
	}
	return ""
}

func layerOf(pkg string) *layer {
	for _, l := range layers() {
		if below(l.path, pkg) {
			return &l
		}
	}
	return nil
}

// below says whether pkg fits the pattern: a path, "path/..." or "...".
func below(pattern, pkg string) bool {
	prefix, wild := strings.CutSuffix(pattern, "...")
	if !wild {
		return pattern == pkg
	}
	return strings.HasPrefix(pkg+"/", prefix)
}

// isGenerated says whether a package holds only what was generated from the API.
func isGenerated(pkg string) bool { return strings.HasPrefix(pkg, "proto/") }
