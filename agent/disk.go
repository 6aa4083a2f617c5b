package agent

import (
	"fmt"

	"github.com/sluice-mesh/sluice/mesh"
)

// disk is what a cluster's membership and records are kept on. A write is kept when the
// method returns without an error; after one nobody knows. Slices stay the caller's.
// Implemented by store, and by faultyDisk over one.
type disk interface {
	putRecords(records []mesh.Record, gone ...mesh.Key) error
	putMembership(m *membership, records []mesh.Record) error
	putCertificate(cert []byte) error
	dropMembership() error
	close() error
}

// faultyDisk is a store whose writes can be made to fail, before they have happened or after.
type faultyDisk struct {
	*store
	fault func() error
}

func (d *faultyDisk) putRecords(records []mesh.Record, gone ...mesh.Key) error {
	return d.write(func() error { return d.store.putRecords(records, gone...) })
}

func (d *faultyDisk) putMembership(m *membership, records []mesh.Record) error {
	return d.write(func() error { return d.store.putMembership(m, records) })
}

func (d *faultyDisk) putCertificate(cert []byte) error {
	return d.write(func() error { return d.store.putCertificate(cert) })
}

func (d *faultyDisk) dropMembership() error { return d.write(d.store.dropMembership) }

func (d *faultyDisk) write(write func() error) error {
	if err := d.fault(); err != nil {
		return fmt.Errorf("write store: %w", err)
	}
	if err := write(); err != nil {
		return err
	}
	if err := d.fault(); err != nil {
		return fmt.Errorf("write store: %w", err)
	}
	return nil
}
