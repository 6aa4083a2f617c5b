package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	bolt "go.etcd.io/bbolt"

	"github.com/sluice-mesh/sluice/mesh"
	"github.com/sluice-mesh/sluice/mesh/gossip"
)

// upgrade makes a store of format 1 one of format 2. There records were mesh.Record by the
// names of its fields; they get the bytes that an agent of that time gave them on the wire,
// so that all nodes have the same. What is no record stays as it is, and is left out.
func upgrade(tx *bolt.Tx) error {
	records := bucket(tx, bucketRecords)
	if records == nil {
		return errors.New("a bucket is missing")
	}
	lines := map[string][]byte{}
	err := records.ForEach(func(k, v []byte) error {
		var r mesh.Record
		if json.Unmarshal(v, &r) != nil || r.Validate() != nil || !bytes.Equal(k, recordKey(r.Key())) {
			return nil
		}
		line, err := gossip.Encode(r)
		if err != nil {
			return err
		}
		lines[string(k)] = line
		return nil
	})
	if err != nil {
		return fmt.Errorf("upgrade records: %w", err)
	}
	for k, line := range lines {
		if err := records.Put([]byte(k), line); err != nil {
			return fmt.Errorf("upgrade records: %w", err)
		}
	}
	return bucket(tx, bucketMeta).Put([]byte(keyFormat), []byte(strconv.Itoa(storeFormat)))
}
