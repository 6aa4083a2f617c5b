package mesh

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestParsePublish(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for spec, want := range map[string][]PublishedPort{
		"8080:80":                   {{Proto: TCP, Published: 8080, Target: 80}},
		"8080:80/tcp":               {{Proto: TCP, Published: 8080, Target: 80}},
		"53:5353/udp":               {{Proto: UDP, Published: 53, Target: 5353}},
		"1:65535/sctp":              {{Proto: SCTP, Published: 1, Target: 65535}},
		"192.0.2.1:8080:80":         {{Addr: v4, Proto: TCP, Published: 8080, Target: 80}},
		"[2001:db8::1]:8080:80":     {{Addr: v6, Proto: TCP, Published: 8080, Target: 80}},
		"127.0.0.1:80:80":           {{Addr: netip.MustParseAddr("127.0.0.1"), Proto: TCP, Published: 80, Target: 80}},
		"8080:80,mode=ingress":      {{Proto: TCP, Published: 8080, Target: 80}},
		"80-81:90-91":               {{Proto: TCP, Published: 80, Target: 90}, {Proto: TCP, Published: 81, Target: 91}},
		"7-7:9":                     {{Proto: TCP, Published: 7, Target: 9}},
		"8080:80,mode=host":         {{Proto: TCP, Published: 8080, Target: 80, Mode: Hosted}},
		"80-82:80-82/udp,mode=host": {{Proto: UDP, Published: 80, Target: 80, Mode: Hosted, Last: 82}},
		"1-65535:1-65535,mode=host": {{Proto: TCP, Published: 1, Target: 1, Mode: Hosted, Last: 65535}},
		"80-80:80-80,mode=host":     {{Proto: TCP, Published: 80, Target: 80, Mode: Hosted}},
		"80-81:90-91,mode=host":     {{Proto: TCP, Published: 80, Target: 90, Mode: Hosted}, {Proto: TCP, Published: 81, Target: 91, Mode: Hosted}},
		"80:80,source=10.1.0.0/16,source=2001:db8::1,source=10.0.0.0/8": {{Proto: TCP, Published: 80, Target: 80, Sources: "10.0.0.0/8,2001:db8::1/128"}},
		"[::1]:80:80,source=10.0.0.0/8,mode=host":                       {{Addr: netip.MustParseAddr("::1"), Proto: TCP, Published: 80, Target: 80, Mode: Hosted, Sources: "10.0.0.0/8"}},
		"192.0.2.1:65535:1-1/udp":                                       {{Addr: v4, Proto: UDP, Published: 65535, Target: 1}},
	} {
		if got, err := ParsePublish(spec); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v", spec, got, err)
		}
	}
	if got, err := ParsePublish("1024-2047:1024-2047"); err != nil || len(got) != rangeLimit || got[1023].Target != 2047 {
		t.Errorf("%d ports, %v", len(got), err)
	}
}

func TestParsePublishRefuses(t *testing.T) {
	for _, c := range []struct {
		spec string
		want Reason
		says string
	}{
		{"", BadPublish, "target port is missing"},
		{"8080", BadPublish, "target port is missing"},
		{":80", BadPublish, `published port ""`},
		{"8080:", BadPublish, `target port ""`},
		{"0:80", BadPublish, `published port "0"`},
		{"80:65536", BadPublish, `target port "65536"`},
		{"-1:80", BadPublish, `published port ""`},
		{"+80:80", BadPublish, `published port "+80"`},
		{"0x50:80", BadPublish, "published port"},
		{"80 :80", BadPublish, "published port"},
		{"８０:80", BadPublish, "published port"},
		{"80-:80", BadPublish, "published port"},
		{"81-80:80-81", BadPublish, "backwards"},
		{"80-82:80-81", BadPublish, "3 published ports cannot lead to 2"},
		{"80-81:80", BadPublish, "2 published ports cannot lead to 1"},
		{"1-1025:1-1025", BadPublish, "1025 ports"},
		{"1-65535:1-65535", BadPublish, "65535 ports"},
		{"80:80/", BadPublish, `protocol ""`},
		{"80:80/TCP", BadPublish, `protocol "TCP"`},
		{"80:80/icmp", BadPublish, `protocol "icmp"`},
		{"80:80/tcp/udp", BadPublish, `protocol "tcp/udp"`},
		{"host:80:80", BadPublish, `"host" is not an IP address`},
		{"1.2.3:80:80", BadPublish, "not an IP address"},
		{"0.0.0.0:80:80", BadPublish, "leave the address out"},
		{"[::]:80:80", BadPublish, "leave the address out"},
		{"224.0.0.1:80:80", BadPublish, "not a unicast address"},
		{"255.255.255.255:80:80", BadPublish, "not a unicast address"},
		{"[fe80::1%eth0]:80:80", BadPublish, "not a unicast address"},
		{"[::1%eth0]:80:80", BadPublish, "not a unicast address"},
		{"[::1%x }\n; flush ruleset #]:80:80", BadPublish, "not a unicast address"},
		{"[::ffff:192.0.2.1]:80:80", BadPublish, "not a unicast address"},
		{"2001:db8::1:80:80", BadPublish, "brackets"},
		{"[2001:db8::1:80:80", BadPublish, "brackets"},
		{"[192.0.2.1]:80:80", BadPublish, "brackets"},
		{"[2001:db8::1]80:80", BadPublish, "brackets"},
		{"[2001:db8::1]:80", BadPublish, "target port is missing"},
		{"80:80,", BadPublish, "option is missing"},
		{"80:80,mode=", BadPublish, `option "mode="`},
		{"80:80,fast", BadPublish, `option "fast"`},
		{"80:80,source=", BadPublish, `option "source="`},
		{"80:80,mode=host,", BadPublish, "option is missing"},
		{"80:80,mode=host,mode=host", BadPublish, "twice"},
		{"80:80,mode=ingress,mode=host", BadPublish, "twice"},
		{"80:80,mode=HOST", BadPublish, `option "mode=HOST"`},
		{"80:80,source=10.0.0.0/33", BadPublish, "is no prefix"},
		{"80:80,source=host", BadPublish, "is no prefix"},
		{"80:80,source=10.1.0.0/8", BadPublish, "has host bits"},
		{"80:80,source=::ffff:10.0.0.0/104", BadPublish, "is no prefix"},
		{"80:80,source=fe80::1%eth0", BadPublish, "is no prefix"},
		{"1-1025:2-1026,mode=host", BadPublish, "1025 ports"},
		{"80:80,nodes=zone=a", Unsupported, "nodes="},
		{"80:80;reboot", BadPublish, "target port"},
		{"80:$(x)", BadPublish, "target port"},
		{"80:80\n", BadPublish, "target port"},
	} {
		got, err := ParsePublish(c.spec)
		if got != nil || ReasonOf(err) != c.want || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: %v, %v", c.spec, got, err)
			continue
		}
		if strings.Contains(err.Error(), "\n") || c.want == BadPublish && !strings.Contains(err.Error(), "8080:80") && !strings.Contains(c.spec, "source=1") && !strings.Contains(err.Error(), "192.0.2.0/24") {
			t.Errorf("%q: %q has no example or several lines", c.spec, err)
		}
	}
}

func FuzzParsePublish(f *testing.F) {
	for _, spec := range []string{"8080:80", "192.0.2.1:1-3:4-6/udp", "[2001:db8::1]:53:53/sctp,mode=ingress", "80:80,mode=host", "7-9:7-9/udp,mode=host,source=::/0,source=10.0.0.1", "[::", "65535-65535:1"} {
		f.Add(spec)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		ports, err := ParsePublish(spec)
		if err != nil && ReasonOf(err) == "" {
			t.Fatalf("%q: no reason: %v", spec, err)
		}
		if (err == nil) != (len(ports) > 0) || len(ports) > rangeLimit {
			t.Fatalf("%q: %d ports, %v", spec, len(ports), err)
		}
		for _, p := range ports {
			if err := p.validate(); err != nil {
				t.Fatalf("%q: %v", spec, err)
			}
			again, err := ParsePublish(p.String())
			if err != nil || !slices.Equal(again, []PublishedPort{p}) {
				t.Fatalf("%q -> %q: %v, %v", spec, p, again, err)
			}
		}
	})
}

func TestCheckReserved(t *testing.T) {
	for _, c := range []struct {
		spec string
		want Reason
	}{
		{"22:22", PortReserved},
		{"22:22/udp", ""},
		{"20-30:20-30", PortReserved},
		{"192.0.2.1:22:80", PortReserved},
		{"7956:80", PortReserved},
		{"7956:80/udp", PortReserved},
		{"4789:80/udp", PortReserved},
		{"8080:22", ""},
		{"20-30:20-30,mode=host", PortReserved},
		{"4000-5000:4000-5000/udp,mode=host", PortReserved},
		{"5000-6000:5000-6000/udp,mode=host", ""},
	} {
		ports, err := ParsePublish(c.spec)
		if err != nil {
			t.Fatal(err)
		}
		err = CheckReserved(ports, 7956, 4789)
		if ReasonOf(err) != c.want {
			t.Errorf("%s: %v", c.spec, err)
		}
		if err != nil && !strings.Contains(err.Error(), "--force") {
			t.Errorf("%s: does not say what to do: %v", c.spec, err)
		}
	}
}
