package plan

import "slices"

// Inside are the settings of a device of ours in an endpoint's namespace: it has IPv6, and no
// router advertises itself to it. What is wished for goes before; S are the mesh's words for
// a setting: FAMILY and TABLE of net/FAMILY/TABLE/LINK/KEY, KEY and its value.
func Inside[S ~struct{ Family, Table, Key, Value string }](link string, wishes []S) []Sysctl {
	list := []Sysctl{WithIPv6(link), {Key: "net/ipv6/conf/" + link + "/accept_ra", Value: "0"}}
	for _, w := range wishes {
		s := struct{ Family, Table, Key, Value string }(w)
		wished := Sysctl{Key: "net/" + s.Family + "/" + s.Table + "/" + link + "/" + s.Key, Value: s.Value}
		list = slices.DeleteFunc(list, func(have Sysctl) bool { return have.Key == wished.Key })
		list = append(list, wished)
	}
	return list
}
