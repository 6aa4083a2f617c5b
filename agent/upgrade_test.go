package agent

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/mesh"
	"github.com/sluice-mesh/sluice/mesh/gossip"
)

// edit changes the buckets of the store in dir.
func edit(t *testing.T, dir string, change func(meta, records *bolt.Bucket) error) {
	t.Helper()
	s, _ := mustOpen(t, dir)
	defer s.close()
	err := s.db.Update(func(tx *bolt.Tx) error { return change(bucket(tx, bucketMeta), bucket(tx, bucketRecords)) })
	if err != nil {
		t.Fatal(err)
	}
}

// format1 is a store as an agent of the first format left it: testdata/format1.json has what it
// wrote, and mesh/gossip/testdata/format1.msg what it sent of the same records.
func format1(t *testing.T) (dir string, sent [][]byte) {
	t.Helper()
	text, err := os.ReadFile("testdata/format1.json")
	if err != nil {
		t.Fatal(err)
	}
	var stored map[string]json.RawMessage
	if err := json.Unmarshal(text, &stored); err != nil {
		t.Fatal(err)
	}
	msg, err := os.ReadFile("../mesh/gossip/testdata/format1.msg")
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	edit(t, dir, func(meta, records *bolt.Bucket) error {
		for k, v := range stored {
			if err := records.Put([]byte(k), v); err != nil {
				return err
			}
		}
		return meta.Put([]byte(keyFormat), []byte("1"))
	})
	return dir, bytes.Split(bytes.TrimSuffix(msg[1:], []byte{'\n'}), []byte{'\n'})
}

func linesOf(t *testing.T, records []mesh.Record) [][]byte {
	t.Helper()
	var lines [][]byte
	for _, r := range records {
		line, err := gossip.Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	return lines
}

// A store of the first format gives the records, by the bytes, that its agent sent to others.
func TestUpgradeStore(t *testing.T) {
	dir, want := format1(t)
	for range 2 { // once more in the new format
		content := reopened(t, dir)
		if got := linesOf(t, content.Records); len(content.Left) != 0 || !slices.EqualFunc(got, want, bytes.Equal) {
			t.Fatalf("left out are %v, the records are\n%s\nwant\n%s", content.Left, bytes.Join(got, []byte{'\n'}), bytes.Join(want, []byte{'\n'}))
		}
	}
	edit(t, dir, func(meta, _ *bolt.Bucket) error {
		if format := string(meta.Get([]byte(keyFormat))); format != "2" {
			t.Errorf("the format is %s", format)
		}
		return nil
	})
}

// A record of the first format that is broken stays out, and the others count.
func TestUpgradeLeavesOut(t *testing.T) {
	dir, want := format1(t)
	broken := mesh.Key{Kind: mesh.KindNode, ID: string(scene.NodeID(2))}
	s, err := bolt.Open(dir+"/"+storeName, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = s.Update(func(tx *bolt.Tx) error {
		return bucket(tx, bucketRecords).Put(recordKey(broken), []byte(`{"Kind":"node","ID":"x"}`))
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	content := reopened(t, dir)
	if _, left := content.Left[broken]; !left || len(content.Left) != 1 || len(content.Records) != len(want)-1 {
		t.Fatalf("%d records, left out are %v", len(content.Records), content.Left)
	}
}

// What a newer agent stored comes back by the byte, or stays where it is and out of the state.
func TestStoreOfNewerRecords(t *testing.T) {
	dir := t.TempDir()
	content := reopened(t, dir)
	line := []byte(`{"k":"service","i":"c000000000000001","t":5,"w":"a000000000000001","c":1,"svc":{"i":"c000000000000001","n":"web","s":"rr","later":[1]},"z":0}` + "\tc2ln")
	newer := []byte(`{"v":3,"k":"service","i":"c000000000000002","w":"a000000000000001","svc":"all else"}`)
	other := mesh.Key{Kind: mesh.KindService, ID: "c000000000000002"}
	edit(t, dir, func(_, records *bolt.Bucket) error {
		return records.Put([]byte("service/c000000000000001"), line)
	})
	edit(t, dir, func(_, records *bolt.Bucket) error { return records.Put(recordKey(other), newer) })
	s, got := mustOpen(t, dir)
	if lines := linesOf(t, got.Records); len(lines) != 1 || !bytes.Equal(lines[0], line) {
		t.Errorf("%q", lines)
	}
	if mesh.ReasonOf(got.Left[other]) != gossip.UnknownVersion || len(got.Left) != 1 {
		t.Errorf("left out are %v", got.Left)
	}
	if err := s.putRecords(got.Records); err != nil {
		t.Fatal(err)
	}
	s.close()
	if lines := linesOf(t, reopened(t, dir).Records); len(lines) != 1 || !bytes.Equal(lines[0], line) {
		t.Errorf("written again: %q", lines)
	}
	// A node that cannot read what it says of itself says so, and does not speak of damage.
	edit(t, dir, func(_, records *bolt.Bucket) error {
		own := mesh.Key{Kind: mesh.KindNode, ID: string(content.ID)}
		return records.Put(recordKey(own), bytes.ReplaceAll(newer, []byte("c000000000000002"), []byte(own.ID)))
	})
	if _, _, err := openStore(dir); mesh.ReasonOf(err) != gossip.UnknownVersion {
		t.Errorf("openStore: %v", err)
	}
}
