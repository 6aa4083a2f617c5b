package agent

import (
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/sluice-mesh/sluice/mesh"
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
