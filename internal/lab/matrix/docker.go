package matrix

import "slices"

// DockerVersion is the version of Debian's docker.io that Differences is about.
const DockerVersion = "20.10.24+dfsg1"

// Daemon is a way to run dockerd.
type Daemon string

// The daemons.
const (
	Usual     Daemon = "as it comes"
	SixTables Daemon = "with ip6tables"
	NoProcess Daemon = "without userland proxy"
)

// Daemons are all, in the order of the page.
func Daemons() []Daemon { return []Daemon{Usual, SixTables, NoProcess} }

// Flags are what dockerd is started with.
func (d Daemon) Flags() []string {
	switch d {
	case Usual:
		return nil
	case SixTables:
		return []string{"--experimental", "--ip6tables"}
	case NoProcess:
		return []string{"--experimental", "--ip6tables", "--userland-proxy=false"}
	}
	panic("no daemon " + string(d)) // a mistake in a test, not something that happens
}

// Options are what "docker network create" is told of a kind of network.
func (n Network) Options() []string {
	switch n {
	case NAT:
		return nil
	case Internal:
		return []string{"--internal"}
	case Apart:
		return []string{"--opt", "com.docker.network.bridge.enable_icc=false"}
	case Routed:
		return []string{"--opt", "com.docker.network.bridge.enable_ip_masquerade=false"}
	}
	panic("no network " + string(n)) // as above
}

// What comes of dialling with Docker alone.
const (
	Lost       Want = "gateway, answer lost" // the answer comes from an address that was not dialled
	Unanswered Want = "gateway, no answer"   // the endpoint answers, and nothing comes back
	Arrives    Want = "arrives"              // a forged frame does, to which no answer could come
)

// Difference is something that Docker does otherwise, and why each does what it does.
type Difference struct {
	Name   string
	Docker string
	Sluice string
	Where  []Where
}

// Where are cells in which Docker does one thing. A list that is empty does not choose.
type Where struct {
	Daemons  []Daemon
	Askers   []Asker
	Ports    []Port
	At       []At
	Networks []Network
	Families []Family
	Protos   []string
	Does     Want
}

func (w Where) is(d Daemon, c Cell) bool {
	return among(w.Daemons, d) && among(w.Askers, c.Asker) && among(w.Ports, c.Port) && among(w.At, c.At) &&
		among(w.Networks, c.Network) && among(w.Families, c.Family) && among(w.Protos, c.Proto)
}

// Cells is how many there are, over all daemons.
func (w Where) Cells() int {
	n := 0
	for _, d := range Daemons() {
		for _, c := range Cells() {
			if w.is(d, c) {
				n++
			}
		}
	}
	return n
}

func among[T comparable](list []T, x T) bool { return len(list) == 0 || slices.Contains(list, x) }

// Docker is what a daemon does in a cell, and the numbers of the differences that say so, from
// 1; without any it does what the cell wants.
func Docker(d Daemon, c Cell) (Want, []int) {
	does, numbers := c.Want, []int(nil)
	for i, difference := range Differences() {
		for _, w := range difference.Where {
			if w.is(d, c) {
				does, numbers = w.Does, append(numbers, i+1)
			}
		}
	}
	return does, numbers
}
