package kernel

import (
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// Unrouted lists the devices of the host that forwarded nothing before this agent
// switched forwarding on, and those that still do not: one list a family, sorted.
// What passes between two of them passes on our account, and nobody asked for
// that. Of devices that came later only network cards count: a bridge, a pair or
// a tunnel was made by a program that saw a forwarding host and relies on it.
// Not beside Apply.
func (k *Kernel) Unrouted() (four, six []string, err error) {
	cards, err := k.cards()
	if err != nil {
		return nil, nil, err
	}
	before := k.settings.before()
	err = k.host.do(func() error {
		if four, err = unrouted("net/ipv4/conf", before, cards); err != nil {
			return err
		}
		six, err = unrouted("net/ipv6/conf", before, cards)
		return err
	})
	return four, six, err
}

// cards lists the host's network cards.
func (k *Kernel) cards() ([]string, error) {
	links, err := k.host.list()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, l := range links {
		if l.Type() == "device" && l.Attrs().Name != "lo" {
			names = append(names, l.Attrs().Name)
		}
	}
	return names, nil
}

// unrouted reads a family's settings in the calling thread's namespace.
func unrouted(dir string, before map[string]string, cards []string) ([]string, error) {
	now, err := readSysctls(dir + "/*/forwarding")
	if err != nil {
		return nil, err
	}
	closed := map[string]bool{}
	for key, value := range now {
		device := path.Base(path.Dir(key))
		if earlier, changed := before[key]; changed {
			value = earlier
		}
		if value == "0" {
			closed[device] = true
		}
	}
	if closed["default"] { // what a device begins with
		for _, card := range cards {
			closed[card] = true
		}
	}
	maps.DeleteFunc(closed, func(device string, _ bool) bool { return notRouted(device) })
	return slices.Sorted(maps.Keys(closed)), nil
}

// notRouted tells names that stand for no device of the host that others use.
func notRouted(device string) bool {
	return device == "all" || device == "default" || device == "lo" ||
		strings.HasPrefix(device, plan.HostLinks)
}
