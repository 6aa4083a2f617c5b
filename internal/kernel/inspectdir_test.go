package kernel

import "testing"

func TestMountOf(t *testing.T) {
	const table = `21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:5 / /run rw,nosuid shared:5 - tmpfs tmpfs rw
23 22 0:4 net:[4026532000] /run/sluice/netns/ep-1 rw shared:5 - nsfs nsfs rw
24 21 0:9 / /mnt/with\040blank rw master:7 - xfs /dev/sdb rw
25 21 0:10 / /twice rw shared:8 - ext4 /dev/sdc rw
26 25 0:11 / /twice rw - tmpfs tmpfs rw
27 broken
`
	for _, c := range []struct {
		dir, kind string
		shared    bool
	}{
		{"/run/sluice", "tmpfs", true},
		{"/runner", "ext4", true},
		{"/", "ext4", true},
		{"/mnt/with blank/x", "xfs", false},
		{"/twice/x", "tmpfs", false},
	} {
		if kind, shared := mountOf(table, c.dir); kind != c.kind || shared != c.shared {
			t.Errorf("%s: %s, shared %t", c.dir, kind, shared)
		}
	}
}
