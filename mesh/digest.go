package mesh

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"slices"
)

// A digest tells whether two nodes hold the same records without sending them: first the
// root, then the buckets, then the heads of those buckets that differ.

// BucketCount is the number of buckets of a digest.
const BucketCount = 256

// SumSize is the length of a Sum in bytes.
const SumSize = sha256.Size

// Sum stands for the bytes of one record, or of a set of them.
type Sum [SumSize]byte

// Head stands for one record of a State: what a peer needs to know whether it has the same.
type Head struct {
	Key     Key
	Version Version
	Sum     Sum
}

// Sum is the SHA-256 hash of the record's bytes: what its writer made, with the signature.
// A record without a Body never leaves its process, and its key and version stand for it.
func (r Record) Sum() Sum {
	h := sha256.New()
	var number [8]byte
	write := func(part []byte) {
		binary.BigEndian.PutUint64(number[:], uint64(len(part)))
		h.Write(number[:])
		h.Write(part)
	}
	write([]byte(r.Kind))
	write([]byte(r.ID))
	write([]byte(r.Version.Writer))
	write(r.Body)
	write(r.Sig)
	binary.BigEndian.PutUint64(number[:], r.Version.Time)
	h.Write(number[:])
	return Sum(h.Sum(nil))
}

// BucketOf is the bucket of a key, the same on all nodes of all versions.
func BucketOf(k Key) uint8 {
	h := hash(string(k.Kind), k.ID)
	h ^= h >> 32
	h ^= h >> 16
	return uint8(h ^ h>>8)
}

// Root stands for all records of the state. Two states have the same root when they have
// the same records.
func (s *State) Root() Sum {
	h := sha256.New()
	for i := range s.digest {
		h.Write(s.digest[i].sum[:])
	}
	return Sum(h.Sum(nil))
}

// Buckets returns the sum of each bucket.
func (s *State) Buckets() [BucketCount]Sum {
	var sums [BucketCount]Sum
	for i := range s.digest {
		sums[i] = s.digest[i].sum
	}
	return sums
}

// Heads returns those of one bucket, sorted by key.
func (s *State) Heads(bucket uint8) []Head {
	heads := make([]Head, 0, len(s.digest[bucket].heads))
	for _, h := range s.digest[bucket].heads {
		heads = append(heads, h)
	}
	slices.SortFunc(heads, func(a, b Head) int { return a.Key.Compare(b.Key) })
	return heads
}

// bucket is a part of a digest. Its sum is that of the sums of its records as 256-bit
// numbers: a set has one sum, whatever the order, and a record is taken out by subtraction.
type bucket struct {
	sum   Sum
	heads map[Key]Head
}

func (b *bucket) put(r Record) {
	b.drop(r.Key())
	if b.heads == nil {
		b.heads = map[Key]Head{}
	}
	h := Head{Key: r.Key(), Version: r.Version, Sum: r.Sum()}
	b.heads[h.Key] = h
	b.sum = b.sum.plus(h.Sum, bits.Add64)
}

func (b *bucket) drop(k Key) {
	h, ok := b.heads[k]
	if !ok {
		return
	}
	delete(b.heads, k)
	b.sum = b.sum.plus(h.Sum, bits.Sub64)
}

// plus adds or subtracts as op says, without what overflows.
func (s Sum) plus(t Sum, op func(x, y, carry uint64) (uint64, uint64)) Sum {
	var carry uint64
	for i := SumSize - 8; i >= 0; i -= 8 {
		var word uint64
		word, carry = op(binary.BigEndian.Uint64(s[i:]), binary.BigEndian.Uint64(t[i:]), carry)
		binary.BigEndian.PutUint64(s[i:], word)
	}
	return s
}

// compareWrites says which of two records of one key wins: the later version. A writer that
// gives one version twice must not split the cluster: there the greater bytes win.
func compareWrites(a, b Record) int {
	if c := a.Version.Compare(b.Version); c != 0 {
		return c
	}
	if c := bytes.Compare(a.Body, b.Body); c != 0 {
		return c
	}
	return bytes.Compare(a.Sig, b.Sig)
}
