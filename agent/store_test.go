package agent

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	bolt "go.etcd.io/bbolt"

	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/mesh"
)

func mustOpen(t *testing.T, dir string) (*store, *saved) {
	t.Helper()
	s, content, err := openStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s, content
}

func TestStoreRoundTrip(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s, first := mustOpen(t, dir)
	w := scene.New(t, 3)
	w.Endpoint(w.Service("web", []mesh.NetworkID{w.Network("blue")}, scene.Port(8080, 80, mesh.TCP)), "web.1", 1)
	w.Write(scene.NodeID(1), tombstone(mesh.NodeRecord(&mesh.Node{ID: scene.NodeID(3)})))
	kept := someMembership(t)
	life := lifetime{PID: 7, Start: 8, Boot: "b"}
	if err := s.putMembership(kept, w.State.Records()); err != nil {
		t.Fatal(err)
	}
	if err := s.putLifetime(testID[mesh.EndpointID]('d', 1), life); err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}

	s, second := mustOpen(t, dir)
	defer s.close()
	if second.ID != first.ID || second.Member == nil || second.Member.bundle.Authority.Pin() != kept.bundle.Authority.Pin() ||
		second.Member.bundle.Gossip[0] != kept.bundle.Gossip[0] || !bytes.Equal(second.Member.cert, kept.cert) {
		t.Fatalf("identity %s and secret did not come back: %s", first.ID, second.ID)
	}
	if got := second.Lifetimes[testID[mesh.EndpointID]('d', 1)]; got != life {
		t.Fatalf("lifetime is %v", got)
	}
	plain := cmp.Options{cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}
	byKey := cmpopts.SortSlices(func(a, b mesh.Record) bool { return string(a.Kind)+a.ID < string(b.Kind)+b.ID })
	if diff := cmp.Diff(w.State.Records(), second.Records, plain, byKey); diff != "" {
		t.Fatalf("records differ:\n%s", diff)
	}
	if info, err := os.Stat(filepath.Join(dir, storeName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the store's mode is %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("the directory's mode is %v, %v", info.Mode(), err)
	}
}

func TestStoreIsOneAgents(t *testing.T) {
	dir := t.TempDir()
	s, _ := mustOpen(t, dir)
	defer s.close()
	_, _, err := openStore(dir)
	if mesh.ReasonOf(err) != DataDirInUse || !strings.Contains(err.Error(), "pid "+strconv.Itoa(os.Getpid())) {
		t.Fatalf("a second agent got %v", err)
	}
}

func TestStoreDamaged(t *testing.T) {
	for name, damage := range map[string]func(content []byte) []byte{
		"text":          func([]byte) []byte { return []byte(strings.Repeat("no database\n", 2000)) },
		"cut":           func(b []byte) []byte { return b[:8200] },
		"one page":      func(b []byte) []byte { return b[:4096] },
		"few bytes":     func(b []byte) []byte { return b[:10] },
		"pages of 0xff": func(b []byte) []byte { return append(b[:8192], []byte(strings.Repeat("\xff", len(b)-8192))...) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, _ := mustOpen(t, dir)
			if err := s.putRecords(scene.New(t, 3).State.Records()); err != nil {
				t.Fatal(err)
			}
			s.close()
			path := filepath.Join(dir, storeName)
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, damage(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, _, err = openStore(dir); mesh.ReasonOf(err) != DataDamaged {
				t.Fatalf("openStore: %v, want %s", err, DataDamaged)
			}
		})
	}
}

func TestStoreOfAnotherVersion(t *testing.T) {
	dir := t.TempDir()
	s, _ := mustOpen(t, dir)
	s.close()
	path := filepath.Join(dir, storeName)
	content, _ := os.ReadFile(path)
	text := strings.ReplaceAll(string(content), "format2", "format3")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openStore(dir); mesh.ReasonOf(err) != DataVersion {
		t.Fatalf("openStore: %v, want %s", err, DataVersion)
	}
}

// spoil makes records of the store, named KIND/ID, such as no agent takes.
func spoil(t *testing.T, dir string, names ...string) {
	t.Helper()
	s, _ := mustOpen(t, dir)
	defer s.close()
	err := s.db.Update(func(tx *bolt.Tx) error {
		for _, name := range names {
			b := bucket(tx, bucketRecords)
			text := strings.ReplaceAll(string(b.Get([]byte(name))), `"n":"`, `"n":";`)
			if err := b.Put([]byte(name), []byte(text)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A record that is no longer valid is left out; only a node that does not know itself cannot go on.
func TestStoreLeavesOut(t *testing.T) {
	dir := t.TempDir()
	s, content := mustOpen(t, dir)
	w := scene.New(t, 3)
	own := mesh.NodeRecord(&mesh.Node{ID: content.ID, Name: "own", Addr: netip.MustParseAddr("192.0.2.20"), VXLANPort: 4789, MTU: 1500})
	w.Write(content.ID, own)
	if err := s.putRecords(w.State.Records()); err != nil {
		t.Fatal(err)
	}
	s.close()
	other := mesh.Key{Kind: mesh.KindNode, ID: string(scene.NodeID(2))}
	spoil(t, dir, "node/"+other.ID)
	got := reopened(t, dir)
	if len(got.Records) != len(w.State.Records())-1 || len(got.Left) != 1 || mesh.ReasonOf(got.Left[other]) != mesh.BadName {
		t.Fatalf("%d records, left out are %v", len(got.Records), got.Left)
	}
	spoil(t, dir, "node/"+own.ID)
	if _, _, err := openStore(dir); mesh.ReasonOf(err) != DataDamaged {
		t.Fatalf("openStore: %v, want %s", err, DataDamaged)
	}
}
