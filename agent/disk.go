package agent

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
)

// disk is what a cluster's membership and records are kept on. A write is kept when the
// method returns without an error; after one nobody knows. Slices stay the caller's.
// Implemented by store and mediumDisk.
type disk interface {
	putRecords(records []mesh.Record) error
	putMembership(secret trust.Secret, records []mesh.Record) error
	dropMembership() error
	close() error
}

// Medium is a disk in memory: what one Plane kept on it the next one finds. It holds what a
// store would, in the same form. The zero value is empty. Safe for concurrent use.
type Medium struct {
	mu      sync.Mutex
	id      mesh.NodeID
	secret  *trust.Secret
	records map[mesh.Key][]byte
}

// open reads it as openStore does, and makes the node's identity where there is none.
func (m *Medium) open() (*saved, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.id == "" {
		m.id = newID[mesh.NodeID]()
	}
	content := &saved{ID: m.id, Secret: m.secret, Left: map[mesh.Key]error{}}
	keys := slices.SortedFunc(maps.Keys(m.records), func(a, b mesh.Key) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID))
	})
	for _, k := range keys {
		if err := content.readRecord([]byte(string(k.Kind)+"/"+k.ID), m.records[k]); err != nil {
			return nil, err
		}
	}
	return content, nil
}

// mediumDisk is a Medium whose writes can be made to fail, before they have happened or after.
type mediumDisk struct {
	medium *Medium
	fault  func() error
}

func (d *mediumDisk) putRecords(records []mesh.Record) error {
	return d.write(func(m *Medium) error { return m.keep(records) })
}

func (d *mediumDisk) putMembership(secret trust.Secret, records []mesh.Record) error {
	return d.write(func(m *Medium) error {
		m.secret = &secret
		return m.keep(records)
	})
}

func (d *mediumDisk) dropMembership() error {
	return d.write(func(m *Medium) error {
		m.secret, m.records = nil, nil
		return nil
	})
}

func (d *mediumDisk) close() error { return nil }

func (d *mediumDisk) write(write func(*Medium) error) error {
	d.medium.mu.Lock()
	defer d.medium.mu.Unlock()
	if err := d.fault(); err != nil {
		return fmt.Errorf("write store: %w", err)
	}
	if err := write(d.medium); err != nil {
		return err
	}
	if err := d.fault(); err != nil {
		return fmt.Errorf("write store: %w", err)
	}
	return nil
}

func (m *Medium) keep(records []mesh.Record) error {
	if m.records == nil {
		m.records = map[mesh.Key][]byte{}
	}
	for _, r := range records {
		text, err := json.Marshal(r)
		if err != nil {
			return err
		}
		m.records[r.Key()] = text
	}
	return nil
}
