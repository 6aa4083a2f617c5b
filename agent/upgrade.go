package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	bolt "go.etcd.io/bbolt"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
	"github.com/sluice-mesh/sluice/mesh/gossip"
)

// upgrade makes a store of format 1 one of format 2. There records were mesh.Record by the
// names of its fields; they get the bytes that an agent of that time gave them on the wire,
// so that all nodes have the same. What is no record stays as it is, and is left out.
func upgrade(tx *bolt.Tx) error {
	meta, records := bucket(tx, bucketMeta), bucket(tx, bucketRecords)
	if records == nil {
		return errors.New("a bucket is missing")
	}
	if meta.Get([]byte(keySecret)) != nil {
		return mesh.Refuse(DataVersion, "run 'sluice reset' on all nodes, start the agents, make a cluster with 'sluice init' on one and join the others: its networks and services are made again",
			"the store is of a cluster without a CA, whose nodes only shared a secret")
	}
	if meta.Get([]byte(keyNode)) == nil { // its ID was a random number
		if err := meta.Put([]byte(keyNode), trust.NewKey().Seed()); err != nil {
			return fmt.Errorf("upgrade identity: %w", err)
		}
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
	return meta.Put([]byte(keyFormat), []byte(strconv.Itoa(storeFormat)))
}
