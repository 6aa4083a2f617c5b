package kernel

import (
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

func TestDiffOrder(t *testing.T) {
	const mark = 7
	list := func(names string) []plan.Backend {
		var all []plan.Backend
		for n := range strings.FieldsSeq(names) {
			all = append(all, backend(mark, "198.18.0."+n+":80", 1))
		}
		return all
	}
	for name, c := range map[string]struct{ want, have, ops string }{
		"nothing there":       {"1 2", "", "add 1, add 2"},
		"equal":               {"1 2 3", "1 2 3", ""},
		"one more at the end": {"1 2 3", "1 2", "add 3"},
		"one more before":     {"1 2 3", "2 3", "order 1 2 3"},
		"one more between":    {"1 2 3", "1 3", "order 2 3"},
		"two at two places":   {"1 2 3 4", "1 3", "order 2 3 4"},
		"one goes":            {"1 3", "1 2 3", "delete 2"},
		"all others":          {"1 2", "3 4", "add 1, add 2, delete 3, delete 4"},
		"the other way":       {"1 2 3", "3 2 1", "order 1 2 3"},
		"goes and comes":      {"1 2 4", "3 1 4", "order 2 4, delete 3"},
	} {
		for _, scheduler := range []string{"mh", "sh", "rr"} {
			server := plan.VirtualServer{Mark: mark, Family: plan.IPv4, Scheduler: scheduler}
			want := &plan.Sandbox{Name: "s", Virtual: []plan.VirtualServer{server}, Backends: list(c.want)}
			have := observed{Sandbox: plan.Sandbox{Virtual: want.Virtual, Backends: list(c.have)}}
			ops := diffIPVS(want, have)
			var said []string
			for _, op := range ops {
				switch o := op.Object.(type) {
				case BackendOrder:
					text := "order"
					for _, b := range o.Backends {
						text += " " + lastByte(b)
					}
					said = append(said, text)
				case plan.Backend:
					said = append(said, string(op.Verb)+" "+lastByte(o))
				}
			}
			got := strings.Join(said, ", ")
			if ordered := strings.Contains(got, "order"); scheduler == "rr" && ordered || scheduler != "rr" && got != c.ops {
				t.Errorf("%s, %s: %q, want %q", name, scheduler, got, c.ops)
			}
		}
	}
}

func lastByte(b plan.Backend) string { return strings.TrimPrefix(b.Addr.String(), "198.18.0.") }

func TestIPVSFlags(t *testing.T) {
	n := ipvsNamespace(t)
	var all []plan.VirtualServer
	for i, f := range []plan.Family{plan.IPv4, plan.IPv6} {
		mark := uint32(10 * i)
		all = append(all,
			plan.VirtualServer{Mark: mark + 1, Family: f, Scheduler: "rr", Persistent: 3 * time.Hour},
			plan.VirtualServer{Mark: mark + 2, Family: f, Scheduler: "mh", Flags: "mh-fallback", Persistent: 24 * time.Hour},
			plan.VirtualServer{Mark: mark + 3, Family: f, Scheduler: "sh", Flags: "sh-fallback"},
		)
	}
	for _, v := range all {
		mustIPVS(t, n, Add, v)
	}
	wantIPVS(t, n, all, nil)

	all[0].Persistent, all[1].Persistent, all[2].Persistent = 0, time.Second, time.Minute
	all[1].Flags, all[5].Flags = "", ""
	mustIPVS(t, n, Replace, all[0], all[1], all[2], all[5])
	wantIPVS(t, n, all, nil)

	for _, wrong := range []plan.VirtualServer{
		{Mark: 30, Family: plan.IPv4, Scheduler: "rr", Persistent: 1500 * time.Millisecond},
		{Mark: 30, Family: plan.IPv4, Scheduler: "rr", Persistent: -time.Second},
		{Mark: 30, Family: plan.IPv4, Scheduler: "rr", Flags: "mh-fallback"},
	} {
		if err := n.doIPVS(Op{Add, "s", wrong}); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%s: %v", wrong, err)
		}
	}
	err := n.do(func() error { // what others change is seen
		out, err := exec.Command("ipvsadm", "-E", "-f", "2", "-s", "mh", "-b", "mh-fallback,mh-port", "-p", "60", "-M", "255.255.255.0").CombinedOutput()
		if err != nil {
			return errors.New(string(out))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	all[1].Flags, all[1].Persistent = "mh-fallback,mh-port,netmask=0xffffff", time.Minute
	wantIPVS(t, n, all, nil)
}

// Whatever order backends came in, they end in the plan's.
func TestIPVSOrder(t *testing.T) {
	n := ipvsNamespace(t)
	server := plan.VirtualServer{Mark: 7, Family: plan.IPv4, Scheduler: "mh", Flags: "mh-fallback"}
	want := &plan.Sandbox{Name: "s", Virtual: []plan.VirtualServer{server}, Backends: []plan.Backend{
		backend(7, "198.18.0.1:80", 1), backend(7, "198.18.0.2:80", 2), backend(7, "198.18.0.3:80", 0), backend(7, "198.18.0.4:80", 1),
	}}
	if err := n.do(func() error { return writeSysctl(plan.Sysctl{Key: nodestSetting, Value: "1"}) }); err != nil {
		t.Fatal(err)
	}
	mustIPVS(t, n, Add, server)
	for _, came := range [][]int{{0, 1, 2, 3}, {3, 2, 1, 0}, {2, 0, 3}, {1}} {
		for _, b := range want.Backends {
			mustIPVS(t, n, Delete, b)
		}
		for _, i := range came {
			mustIPVS(t, n, Add, want.Backends[i])
		}
		var have observed
		var err error
		for range 2 { // the second time nothing is left to do
			have.Virtual, have.Backends, have.Timeouts, err = n.observeIPVS()
			if err != nil {
				t.Fatal(err)
			}
			for _, op := range diffIPVS(want, have) {
				if err := n.doIPVS(op); err != nil {
					t.Errorf("%s: %v", op, err)
				}
			}
		}
		if !slices.Equal(have.Backends, want.Backends) {
			t.Errorf("backends that came in the order %v: %s", came, cmp.Diff(want.Backends, have.Backends, cmp.Comparer(func(a, b plan.Backend) bool { return a == b })))
		}
	}
	settings, err := n.observeSysctls([]plan.Sysctl{{Key: nodestSetting}})
	if err != nil || settings[nodestSetting] != "1" {
		t.Errorf("%s is left at %q, %v", nodestSetting, settings[nodestSetting], err)
	}
}
