package scenarios

import (
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/mesh"
)

// Echo to a virtual address is answered where the caller is, and refused where nobody is
// behind the address, or no service has it.
func TestVirtualEcho(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	f := onRealKernel(t, mesh.BalancerNFT)
	w := newWorld(t)
	blue := []string{"blue"}
	for _, name := range []string{"web", "app", "empty"} {
		if err := w.service(name, flags{networks: blue}); err != nil {
			t.Fatal(err)
		}
	}
	w.Endpoint(w.State.Snapshot().ServiceNamed("web").ID, "a", 2)
	w.Endpoint(w.State.Snapshot().ServiceNamed("app").ID, "x", 1)
	if err := f.Settle(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	for _, six := range []bool{false, true} {
		of := func(place string) string {
			a, err := w.virtual(place, How{Six: six})
			if err != nil {
				t.Fatal(err)
			}
			return a.String()
		}
		part := w.State.Snapshot().NetworkNamed("blue").VirtualParts()[0]
		if six {
			part = w.State.Snapshot().NetworkNamed("blue").VirtualParts()[1]
		}
		for place, to := range map[string]string{"web": of("web@blue"), "empty": of("empty@blue"), "nobody": part.Addr().Next().String()} {
			out, err := f.living["x"].space.Run(t.Context(), "ping", "-c1", "-W2", to)
			answered := err == nil && strings.Contains(out, "1 received")
			told := strings.Contains(out+errText(err), "nreachable")
			if answered != (place == "web") || told == answered {
				t.Errorf("%s %s: answered %v, refused %v: %s %v", place, to, answered, told, out, err)
			}
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
