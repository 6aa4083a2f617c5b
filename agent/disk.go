package agent

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
	"github.com/sluice-mesh/sluice/mesh/gossip"
)

// disk is what a cluster's membership and records are kept on. A write is kept when the
// method returns without an error; after one nobody knows. Slices stay the caller's.
// Implemented by store and mediumDisk.
type disk interface {
	putRecords(records []mesh.Record, gone ...mesh.Key) error
	putMembership(m *membership, records []mesh.Record) error
	putCertificate(cert []byte) error
	dropMembership() error
	close() error
}

// Medium is a disk in memory: what one Plane kept on it the next one finds. It holds what a
// store would, in the same form. The zero value is empty. Safe for concurrent use.
type Medium struct {
	mu      sync.Mutex
	key     trust.Key
	member  *membership
	records map[mesh.Key][]byte
}

// open reads it as openStore does, and makes the node's identity where there is none.
func (m *Medium) open() (*saved, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.key.Valid() {
		m.key = trust.NewKey()
	}
	content := &saved{ID: m.key.ID(), Key: m.key, Member: m.member, Left: map[mesh.Key]error{}}
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

func (d *mediumDisk) putRecords(records []mesh.Record, gone ...mesh.Key) error {
	return d.write(func(m *Medium) error {
		for _, k := range gone {
			delete(m.records, k)
		}
		return m.keep(records)
	})
}

func (d *mediumDisk) putMembership(member *membership, records []mesh.Record) error {
	return d.write(func(m *Medium) error {
		m.member = member
		return m.keep(records)
	})
}

func (d *mediumDisk) putCertificate(cert []byte) error {
	return d.write(func(m *Medium) error {
		if m.member != nil {
			renewed := *m.member
			renewed.cert = cert
			m.member = &renewed
		}
		return nil
	})
}

func (d *mediumDisk) dropMembership() error {
	return d.write(func(m *Medium) error {
		m.member, m.records = nil, nil
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
		text, err := gossip.Encode(r)
		if err != nil {
			return err
		}
		m.records[r.Key()] = text
	}
	return nil
}
