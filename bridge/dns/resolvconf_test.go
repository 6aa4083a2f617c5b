package dns

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseConf(t *testing.T) {
	for _, tt := range []struct {
		why, text string
		upstreams string
		search    string
		options   string
	}{
		{"nothing", "", "", "", ""},
		{"as usual", "nameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch a.example b.example\noptions ndots:2 edns0\n", "192.0.2.1:53 [2001:db8::1]:53", "a.example b.example", "ndots:2 edns0"},
		{"with a card", "nameserver fe80::1%eth0\n", "[fe80::1%eth0]:53", "", ""},
		{"systemd's", "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n", "127.0.0.53:53", ".", "edns0 trust-ad"},
		{"the last of search and domain", "search a b\ndomain c\n", "", "c", ""},
		{"and the other way", "domain c\nsearch a b", "", "a b", ""},
		{"options add up", "options a\noptions b c\n", "", "", "a b c"},
		{"comments", "# nameserver 192.0.2.1\n; search x\nnameserver 192.0.2.2 # mine\n", "192.0.2.2:53", "", ""},
		{"not understood", "nameserver\nnameserver example.org\nsortlist 1.2.3.4\nnameserver 192.0.2.3 192.0.2.4\n", "192.0.2.3:53", "", ""},
		{"tabs and DOS ends", "nameserver\t192.0.2.1\r\nsearch\ta\tb\r\n", "192.0.2.1:53", "a b", ""},
		{"v4 as v6", "nameserver ::ffff:192.0.2.1\n", "192.0.2.1:53", "", ""},
		{"more than anyone needs", strings.Repeat("nameserver 192.0.2.1\n", 100), strings.TrimSpace(strings.Repeat("192.0.2.1:53 ", 8)), "", ""},
	} {
		t.Run(tt.why, func(t *testing.T) {
			c := ParseConf(tt.text)
			var upstreams []string
			for _, u := range c.Upstreams {
				upstreams = append(upstreams, u.String())
			}
			got := []string{strings.Join(upstreams, " "), strings.Join(c.Search, " "), strings.Join(c.Options, " ")}
			if diff := cmp.Diff([]string{tt.upstreams, tt.search, tt.options}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestEndpointConf(t *testing.T) {
	for _, tt := range []struct{ why, host, want string }{
		{"nothing", "", "nameserver 127.0.0.11\noptions ndots:0\n"},
		{"all", "nameserver 192.0.2.1\nsearch a.example b\noptions edns0 trust-ad\n", "nameserver 127.0.0.11\nsearch a.example b\noptions edns0 trust-ad ndots:0\n"},
		{"ndots of the host's", "options ndots:3 rotate\n", "nameserver 127.0.0.11\noptions ndots:3 rotate\n"},
		{"no search", "search .\n", "nameserver 127.0.0.11\noptions ndots:0\n"},
	} {
		t.Run(tt.why, func(t *testing.T) {
			text := EndpointConf(ParseConf(tt.host))
			_, got, _ := strings.Cut(text, "\n")
			if !strings.HasPrefix(text, "#") || got != tt.want {
				t.Errorf("%s", text)
			}
		})
	}
	evil := EndpointConf(Conf{Search: []string{"a\nnameserver 203.0.113.1", "b c", "", "d"}, Options: []string{"x#y", "e"}})
	if again := ParseConf(evil); len(again.Upstreams) != 1 || !slices.Equal(again.Search, []string{"d"}) || !slices.Equal(again.Options, []string{"e", "ndots:0"}) {
		t.Errorf("%s", evil)
	}
	for _, tt := range []struct {
		options string
		n       int
		set     bool
	}{{"", 0, false}, {"ndots:2", 2, true}, {"ndots:2 ndots:4", 4, true}, {"ndots:99", 15, true}, {"ndots:x", 0, false}, {"ndots:-1", 0, false}} {
		if n, set := ParseConf("options " + tt.options).Ndots(); n != tt.n || set != tt.set {
			t.Errorf("%q: %d %v", tt.options, n, set)
		}
	}
}

// The file is replaced, written anew, missing for a while and behind a link.
func TestWatchConf(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "resolv.conf")
	write := func(name, address string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte("nameserver "+address+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := WatchConf(t.Context(), path, time.Millisecond, func(Conf) {}); err == nil {
		t.Error("a missing file is no error")
	}
	write("resolv.conf", "192.0.2.1")
	ctx, cancel := context.WithCancel(t.Context())
	seen, done := make(chan string, 100), make(chan error, 1)
	go func() {
		done <- WatchConf(ctx, path, time.Millisecond, func(c Conf) { seen <- c.Upstreams[0].Addr().String() })
	}()
	step := func(want string, do func()) {
		t.Helper()
		do()
		select {
		case got := <-seen:
			if got != want {
				t.Errorf("%s, want %s", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s is not seen", want)
		}
	}
	step("192.0.2.1", func() {})
	step("192.0.2.2", func() { write("new", "192.0.2.2"); os.Rename(filepath.Join(dir, "new"), path) })
	step("192.0.2.3", func() {
		os.Remove(path)
		time.Sleep(20 * time.Millisecond)
		write("new", "192.0.2.3")
		os.Rename(filepath.Join(dir, "new"), path)
	})
	step("192.0.2.4", func() {
		write("other", "192.0.2.4")
		os.Symlink("other", filepath.Join(dir, "link"))
		os.Rename(filepath.Join(dir, "link"), path)
	})
	step("192.0.2.5", func() { write("new", "192.0.2.5"); os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "other")) })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(seen) > 0 {
		t.Errorf("%d more changes than there were", len(seen))
	}
}

func FuzzParseConf(f *testing.F) {
	for _, seed := range []string{"nameserver 192.0.2.1\nsearch a b\noptions ndots:2\n", "nameserver fe80::1%eth0", "search .", "options ndots:9999999999999", "domain \x00", "#\n;\n\r"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c := ParseConf(text)
		if len(c.Upstreams) > maxUpstreams || len(c.Search) > maxSearch || len(c.Options) > maxOptions {
			t.Fatalf("too much: %+v", c)
		}
		written := EndpointConf(c)
		again := ParseConf(written)
		if len(again.Upstreams) != 1 || again.Upstreams[0].Addr().String() != EndpointAddr {
			t.Fatalf("asks somebody else:\n%s", written)
		}
		if _, set := again.Ndots(); !set && len(c.Options) < maxOptions {
			t.Fatalf("no ndots:\n%s", written)
		}
		if twice := EndpointConf(again); twice != written && len(c.Options) < maxOptions {
			t.Fatalf("not the same again:\n%s\n%s", written, twice)
		}
	})
}
