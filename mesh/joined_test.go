package mesh

import (
	"strings"
	"testing"
)

func TestJoinedRefuses(t *testing.T) {
	good := func() Joined {
		return Joined{
			Network: testID[NetworkID]('b', 1), MAC: [6]byte{2, 1}, Interface: "eth0", Aliases: []string{"a", "b.c"}, Gateway: -1,
			Sysctls: []InterfaceSysctl{{"ipv4", "conf", "forwarding", "1"}, {"ipv6", "neigh", "base_reachable_time_ms", "1000"}},
		}
	}
	if err := good().Validate(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(j *Joined)
		want   Reason
	}{
		"ingress network":     {func(j *Joined) { j.Network = IngressNetwork }, BadValue},
		"no network":          {func(j *Joined) { j.Network = "../../x" }, BadRecord},
		"multicast MAC":       {func(j *Joined) { j.MAC[0] = 3 }, BadAddress},
		"lo":                  {func(j *Joined) { j.Interface = "lo" }, BadName},
		"all":                 {func(j *Joined) { j.Interface = "all" }, BadName},
		"ours":                {func(j *Joined) { j.Interface = "sl100002" }, BadName},
		"long name":           {func(j *Joined) { j.Interface = "e234567890123456" }, BadName},
		"a path":              {func(j *Joined) { j.Interface = "../all" }, BadName},
		"a slash":             {func(j *Joined) { j.Interface = "eth/0" }, BadName},
		"a space":             {func(j *Joined) { j.Interface = "eth 0" }, BadName},
		"dots":                {func(j *Joined) { j.Interface = ".." }, BadName},
		"alias":               {func(j *Joined) { j.Aliases = []string{"a b"} }, BadName},
		"alias twice":         {func(j *Joined) { j.Aliases = []string{"a", "a"} }, BadName},
		"many aliases":        {func(j *Joined) { j.Aliases = make([]string, aliasLimit+1) }, BadName},
		"priority":            {func(j *Joined) { j.Gateway = gatewayLimit }, BadValue},
		"sysctl family":       {func(j *Joined) { j.Sysctls[0].Family = "core" }, BadValue},
		"sysctl table":        {func(j *Joined) { j.Sysctls[0].Table = "route" }, BadValue},
		"sysctl path":         {func(j *Joined) { j.Sysctls[0].Key = "../../ip_forward" }, BadValue},
		"sysctl without key":  {func(j *Joined) { j.Sysctls[0].Key = "" }, BadValue},
		"sysctl with a break": {func(j *Joined) { j.Sysctls[0].Value = "1\n2" }, BadValue},
		"long sysctl":         {func(j *Joined) { j.Sysctls[0].Value = strings.Repeat("1", 65) }, BadValue},
		"sysctl twice":        {func(j *Joined) { j.Sysctls[1] = j.Sysctls[0] }, BadValue},
		"many sysctls":        {func(j *Joined) { j.Sysctls = make([]InterfaceSysctl, sysctlLimit+1) }, BadValue},
	} {
		j := good()
		c.change(&j)
		if err := j.Validate(); ReasonOf(err) != c.want || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	e := testEndpoint(1, 1, 1)
	e.Joined = []Joined{good(), good()}
	if err := e.Validate(); ReasonOf(err) != BadRecord {
		t.Errorf("one network twice: %v", err)
	}
	if e.Joined[1].Network = testID[NetworkID]('b', 2); ReasonOf(e.Validate()) != BadValue {
		t.Errorf("one interface twice: %v", e.Validate())
	}
	if e.Joined[1].Interface = "eth1"; e.Validate() != nil {
		t.Error(e.Validate())
	}
	e.Joined = make([]Joined, networkLimit+1)
	if err := e.Validate(); ReasonOf(err) != BadValue {
		t.Errorf("many networks: %v", err)
	}
}

func TestServiceNames(t *testing.T) {
	good := testService(1)
	good.Aliases, good.Stack, good.Mode = []string{"web", "db"}, "shop", VirtualIP
	if err := good.Validate(); err != nil || good.Aliases[0] != "db" {
		t.Fatalf("%v, aliases %v", err, good.Aliases)
	}
	for name, c := range map[string]struct {
		change func(s *Service)
		want   Reason
	}{
		"alias":   {func(s *Service) { s.Aliases = []string{"a/b"} }, BadName},
		"twice":   {func(s *Service) { s.Aliases = []string{"a", "a"} }, BadName},
		"stack":   {func(s *Service) { s.Stack = "." }, BadName},
		"mode":    {func(s *Service) { s.Mode = "VIP" }, BadValue},
		"virtual": {func(s *Service) { s.Virtual = []Attachment{{}} }, BadRecord},
	} {
		s := *good
		c.change(&s)
		if err := s.Validate(); ReasonOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}
