package agent

import (
	"encoding/json"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/sluice-mesh/sluice/mesh"
	"github.com/sluice-mesh/sluice/mesh/gossip"
)

// write runs f as one transaction, and says what is wrong with a disk that does not take
// it, and what to do. What was written before is there still: a transaction is on the disk
// as a whole or not at all. Damage in pages that nobody has read yet shows here.
func (s *store) write(f func(*bolt.Tx) error) error {
	path := s.db.Path()
	err := readDamaged(path, func() error { return s.db.Update(f) })
	if refused := diskError(path, err); refused != nil {
		return refused
	}
	if err = structural(path, err); err != nil && mesh.ReasonOf(err) == "" {
		err = fmt.Errorf("write store: %w", err)
	}
	return err
}

// structural makes a refusal of what bbolt says of a file that no store writes.
func structural(path string, err error) error {
	for _, known := range []error{bolterrors.ErrIncompatibleValue, bolterrors.ErrInvalid, bolterrors.ErrChecksum, bolterrors.ErrBucketNotFound} {
		if errors.Is(err, known) {
			return damaged(path, err)
		}
	}
	return err
}

// putRecords keeps records, and forgets those that are gone, in one transaction.
func (s *store) putRecords(records []mesh.Record, gone ...mesh.Key) error {
	return s.write(func(tx *bolt.Tx) error {
		for _, k := range gone {
			if err := bucket(tx, bucketRecords).Delete(recordKey(k)); err != nil {
				return err
			}
		}
		return putRecords(tx, records)
	})
}

// putCertificate keeps another certificate of this node.
func (s *store) putCertificate(cert []byte) error {
	return s.write(func(tx *bolt.Tx) error { return bucket(tx, bucketMeta).Put([]byte(keyCertificate), cert) })
}

// putMembership keeps what makes the node a member, and records, in one transaction.
func (s *store) putMembership(m *membership, records []mesh.Record) error {
	text, err := m.bundle.Marshal()
	if err != nil {
		return fmt.Errorf("write store: %w", err)
	}
	trail, err := m.trail.Marshal()
	if err != nil {
		return fmt.Errorf("write store: %w", err)
	}
	return s.write(func(tx *bolt.Tx) error {
		meta := bucket(tx, bucketMeta)
		err := errors.Join(meta.Put([]byte(keyBundle), text), meta.Put([]byte(keyCertificate), m.cert),
			meta.Put([]byte(keyLineage), lineageText(m.lineage)), meta.Put([]byte(keyTrail), trail))
		if err != nil {
			return err
		}
		return putRecords(tx, records)
	})
}

func recordKey(k mesh.Key) []byte { return []byte(string(k.Kind) + "/" + k.ID) }

func putRecords(tx *bolt.Tx, records []mesh.Record) error {
	b := bucket(tx, bucketRecords)
	for _, r := range records {
		line, err := gossip.Encode(r)
		if err != nil {
			return err
		}
		if err := b.Put(recordKey(r.Key()), line); err != nil {
			return err
		}
	}
	return nil
}

// putLifetime keeps which process an endpoint ends with.
func (s *store) putLifetime(id mesh.EndpointID, l lifetime) error {
	text, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("write store: %w", err)
	}
	return s.write(func(tx *bolt.Tx) error { return bucket(tx, bucketLifetimes).Put([]byte(id), text) })
}

// dropLifetime forgets it; dropping what is not there is success.
func (s *store) dropLifetime(id mesh.EndpointID) error {
	return s.write(func(tx *bolt.Tx) error { return bucket(tx, bucketLifetimes).Delete([]byte(id)) })
}

// dropMembership forgets the cluster: its keys, every record and lifetime. The
// identity stays.
func (s *store) dropMembership() error {
	return s.write(func(tx *bolt.Tx) error {
		for _, name := range []string{bucketRecords, bucketLifetimes} {
			if err := tx.DeleteBucket([]byte(name)); err != nil {
				return err
			}
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		meta := bucket(tx, bucketMeta)
		var errs []error
		for _, key := range []string{keyBundle, keyCertificate, keyLineage, keyTrail} {
			errs = append(errs, meta.Delete([]byte(key)))
		}
		return errors.Join(errs...)
	})
}
