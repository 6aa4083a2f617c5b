package agent

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/doctor"
	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// someFacts are those of a healthy host.
func someFacts(q kernel.Inspection) doctor.Facts {
	room := doctor.Dir{Exists: true, Filesystem: "ext4", Free: 1 << 40, Inodeless: true}
	run, data := room, room
	run.Path, data.Path = q.RunDir, q.DataDir
	return doctor.Facts{
		Rights: doctor.Rights{NetAdmin: true, SysAdmin: true},
		RunDir: doctor.RunDir{Dir: run}, DataDir: doctor.DataDir{Dir: data, Holds: true},
		Underlay: doctor.Underlay{Addr: q.Advertise, Device: "eth0", MTU: 1500},
		Occupied: []doctor.Occupied{{Prefix: netip.MustParsePrefix("198.18.7.0/24"), By: "route dev tun0"}},
		Tunnels:  []doctor.Tunnel{{Name: "other", VNI: 1048576, Port: q.VXLANPort}},
		Ports:    []doctor.Port{{Use: "vxlan", Proto: "udp", Number: q.VXLANPort}},
	}
}

// examined are the checks that are not ok, one a line, and the seen of the others by name.
func (a *testAgent) examined() (bad string, good map[string]string) {
	a.tb.Helper()
	resp, err := sluicev1.NewDoctorServiceClient(a.conn).Examine(a.tb.Context(), &sluicev1.ExamineRequest{})
	if err != nil {
		a.tb.Fatal(err)
	}
	good = map[string]string{}
	var lines strings.Builder
	for _, c := range resp.GetChecks() {
		if c.GetState() == "ok" {
			good[c.GetName()] = c.GetSeen()
			continue
		}
		lines.WriteString(c.GetState() + " " + c.GetName() + ": " + c.GetSeen() + "\n")
		if c.GetDo() == "" {
			a.tb.Errorf("%s does not say what to do", c.GetName())
		}
	}
	return lines.String(), good
}

func TestExamine(t *testing.T) {
	agents, _ := newTestCluster(t, 2)
	a := agents[0]
	a.create("web", "8080:80")
	eventually(t, "the other node is alive", func() bool {
		bad, _ := a.examined()
		return !strings.Contains(bad, "peers")
	})
	bad, good := a.examined()
	for _, want := range []string{
		"warn overlap: 198.18.7.0/24 (route dev tun0) overlaps 198.18.0.0/16, network ingress\n",
		"fail tunnels: device other has VNI 1048576 on port 4789, which is network ingress's\n",
		"warn problems: 1 object not as wished: service web port tcp/8080: NoReadyEndpoint\n",
	} {
		if !strings.Contains(bad, want) {
			t.Errorf("no %s in\n%s", want, bad)
		}
	}
	for name, want := range map[string]string{
		"peers": "all 1 are alive", "plan": "the kernel is as planned", "repairs": "none since the agent started",
		"balancer": "ipvs (auto: this kernel has IP_VS)",
		"underlay": "192.0.2.11 on eth0, MTU 1500", "agent": "version test, pid ",
	} {
		if !strings.HasPrefix(good[name], want) {
			t.Errorf("%s: got %q, want %q", name, good[name], want)
		}
	}
	eventually(t, "the plan stands", func() bool { // what a round brings anew is no repair
		s := a.status()
		return s.GetAppliedRevision() == s.GetRevision()
	})
	addr := plan.Addr{Link: plan.UplinkHost, Prefix: plan.Uplink4(1)}
	a.machine.sabotage(t, "nft (pid 4711)", kernel.Op{Verb: kernel.Add, Sandbox: plan.HostSandbox, Object: addr})
	a.machine.setDiffer(kernel.Op{Verb: kernel.Delete, Sandbox: plan.HostSandbox, Object: addr})
	eventually(t, "the repair is counted", func() bool {
		_, good := a.examined()
		return strings.HasPrefix(good["repairs"], "1 since") && strings.HasSuffix(good["repairs"], "changed by nft (pid 4711)")
	})
	if bad, _ := a.examined(); !strings.Contains(bad, "fail plan: the kernel differs in 1 object: delete host: addr") {
		t.Errorf("the difference is not named:\n%s", bad)
	}
}

func TestExamineOutsideCluster(t *testing.T) {
	a := newTestAgent(t, 1)
	bad, _ := a.examined()
	for _, want := range []string{"warn peers: this node is in no cluster", "198.18.0.0/16, which a cluster's ingress network gets"} {
		if !strings.Contains(bad, want) {
			t.Errorf("no %q in\n%s", want, bad)
		}
	}
}

// A record that is ahead tells of a clock that is not set.
func TestAhead(t *testing.T) {
	a := newTestAgent(t, 1)
	if _, err := a.clusters.Init(t.Context(), &sluicev1.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	a.stop()
	s, content, err := openStore(a.cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	c := newCluster(clusterConfig{
		Store: s, Own: mesh.Node{ID: content.ID, Name: "n1"}, Now: func() time.Time { return time.Now().Add(-time.Hour) }, Log: a.cfg.Log,
	}, content)
	if ahead, writer := c.ahead(); ahead < 59*time.Minute || ahead > 61*time.Minute || writer != "n1" {
		t.Errorf("%s ahead, by %s", ahead, writer)
	}
}

func TestDoctorAlone(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ silent, want string }{
		{"", "warn agent: none answers on unix:///s"},
		{"it hangs", "fail agent: at unix:///s: it hangs"},
	} {
		resp, err := doctorWith(DoctorConfig{
			DataDir: dir + "/data", RunDir: dir + "/run", VXLANPort: 4790, Advertise: netip.MustParseAddr("192.0.2.11"), Silent: c.silent, Address: "unix:///s",
		}, func(q kernel.Inspection) doctor.Facts {
			if q.RunDir != dir+"/run" || q.VXLANPort != 4790 || q.GossipPort != DefaultGossipPort || len(q.Schedulers) != 1 || len(q.Spare) != 5 || q.DataFile != storeName {
				t.Errorf("got %+v", q)
			}
			return someFacts(q)
		})
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, check := range resp.GetChecks() {
			found = found || check.GetState()+" "+check.GetName()+": "+check.GetSeen() == c.want
		}
		if !found {
			t.Errorf("no %q in %v", c.want, resp.GetChecks())
		}
	}
	if _, err := doctorWith(DoctorConfig{GossipPort: 4789}, nil); err == nil {
		t.Error("two uses of a port should be refused")
	}
}
