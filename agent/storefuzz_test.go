package agent

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
)

// FuzzStorePage changes bytes of a store's file: whatever a disk gives back, the agent says
// that it is damaged, or goes on, and neither ends by it nor hangs. Each three bytes of
// changes are one: where, of 65,536 places spread over the file, and what to flip.
func FuzzStorePage(f *testing.F) {
	records := scene.New(f, 100).State.Records()
	whole := storeOf(f, records)
	f.Add([]byte{0, 0, 0})
	for page := range min(len(whole)/4096, 16) {
		at := page * 4096 * 65536 / len(whole)
		f.Add([]byte{byte(at >> 8), byte(at), 1, byte(at >> 8), byte(at + 1), 2})
	}
	f.Fuzz(func(t *testing.T, changes []byte) {
		content := append([]byte(nil), whole...)
		for ; len(changes) >= 3; changes = changes[3:] {
			at := (int(changes[0])<<8 | int(changes[1])) * len(content) / 65536
			content[at] ^= changes[2]
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, storeName), content, 0o600); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- openAndWrite(dir, records) }()
		select {
		case err := <-ended:
			if err != nil && mesh.ReasonOf(err) == "" {
				t.Fatalf("no reason is given: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the store neither opens nor is refused")
		}
	})
}

func openAndWrite(dir string, records []mesh.Record) error {
	s, _, err := openStore(dir)
	if err != nil {
		return err
	}
	defer s.close()
	return s.putRecords(records)
}

// storeOf is the file of a store, always the same for the same records: findings of a fuzzer
// hold for the next one.
func storeOf(tb testing.TB, records []mesh.Record) []byte {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), storeName)
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		tb.Fatal(err)
	}
	s := &store{db}
	err = db.Update(func(tx *bolt.Tx) error {
		if err := s.create(tx, &saved{}); err != nil {
			return err
		}
		return bucket(tx, bucketMeta).Put([]byte(keyNode), bytes.Repeat([]byte{7}, trust.KeySize))
	})
	if err := errors.Join(err, s.putRecords(records), s.close()); err != nil {
		tb.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return whole
}
