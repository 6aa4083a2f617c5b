package gossip

import (
	"bytes"
	"encoding/base64"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Debian's serf agent, which this project did not write, is a member with the cluster's key: it
// sees our nodes, and they go on as if it were not there. Without the key it is nobody.
func TestDebianSerf(t *testing.T) {
	nodes := cluster(t, 3)
	rpc := serfAgent(t, "serf-with-key", key(1), nodes[0].addr.String())
	within(t, 10*time.Second, "serf sees three nodes alive", func() bool {
		list, err := exec.Command("serf", "members", "-rpc-addr", rpc).CombinedOutput()
		alive := 0
		for _, n := range nodes {
			if strings.Contains(string(list), string(n.id)) {
				alive++
			}
		}
		return err == nil && alive == 3 && strings.Count(string(list), "alive") == 4
	})
	r := nodes[1].write(service(1))
	within(t, 5*time.Second, "a record reaches all nodes", func() bool { return hasVersion(nodes[0], r)() && hasVersion(nodes[2], r)() })
	for _, n := range nodes {
		if got := n.Members(); len(got) != 3 {
			t.Errorf("%s has the members %v", n.id, got)
		}
	}
	out, err := exec.Command("serf", "join", "-rpc-addr", serfAgent(t, "serf-other-key", key(3), ""), nodes[0].addr.String()).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "Error joining") {
		t.Errorf("serf joins with another key: %v, %s", err, out)
	}
}

// serfAgent starts one and returns where it is asked. It ends with the test.
func serfAgent(t *testing.T, name string, secret []byte, join string) (rpc string) {
	t.Helper()
	bind, ask := freePort(t, 8), freePort(t, 7)
	args := []string{"agent", "-node", name, "-bind", bind.String(), "-rpc-addr", ask.String(), "-encrypt", base64.StdEncoding.EncodeToString(secret)}
	if join != "" {
		args = append(args, "-join", join)
	}
	cmd := exec.Command("serf", args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: make deps installs serf", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has nothing to save
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s: %s", name, said.String())
		}
	})
	within(t, 10*time.Second, "serf answers", func() bool { return exec.Command("serf", "info", "-rpc-addr", ask.String()).Run() == nil })
	return ask.String()
}
