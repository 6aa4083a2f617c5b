package agent

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
	"github.com/sluice-mesh/sluice/mesh/gossip"
)

// store is what survives a restart: who the node is, the cluster's keys and
// every record, so that the node serves from disk before it hears anyone. One
// process uses a data directory at a time; a store may be used concurrently.
type store struct{ db *bolt.DB }

// The file holds three buckets: meta (format, key, bundle, certificate), records (KIND/ID ->
// what gossip.Encode makes) and lifetimes (endpoint ID -> JSON). A change that an older
// agent cannot read gets a new format number; that of the format before is upgraded.
const (
	storeName   = "sluice.db"
	storeFormat = 2
	lockTimeout = 300 * time.Millisecond // long enough for an agent that is just ending
)

const (
	bucketMeta      = "meta"
	bucketRecords   = "records"
	bucketLifetimes = "lifetimes"
	keyFormat       = "format"
	keyNode         = "key"         // the seed of this node's key: its identity
	keyBundle       = "bundle"      // the cluster's CA and keys of gossip
	keyCertificate  = "certificate" // this node's, in DER
	keyLineage      = "lineage"     // the CAs of before
	keyTrail        = "trail"       // the successions to the present one; none in a store of before there were any
	keySecret       = "secret"      // of a cluster of format 1
)

// saved is the whole content of a store.
type saved struct {
	ID        mesh.NodeID
	Key       trust.Key
	Member    *membership // nil: the node is in no cluster
	Records   []mesh.Record
	Left      map[mesh.Key]error // records that cannot be used, and why
	Lifetimes map[mesh.EndpointID]lifetime
}

// openStore opens or makes the store in dir and reads it. The first start makes
// the node's identity.
func openStore(dir string) (*store, *saved, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("make data directory: %w", err)
	}
	path := filepath.Join(dir, storeName)
	var s *store
	var content *saved
	err := readDamaged(path, func() error {
		db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockTimeout})
		if err != nil {
			return openError(path, err)
		}
		s = &store{db}
		if err := checkPages(db); err != nil {
			return damaged(path, err)
		}
		content, err = s.load(path)
		return err
	})
	if err != nil {
		if s != nil {
			err = errors.Join(err, s.close())
		}
		return nil, nil, err
	}
	return s, content, nil
}

// readDamaged runs f and makes a refusal of what bbolt does on a broken file: it
// panics on a page it cannot read, and the kernel faults where the file was cut.
func readDamaged(path string, f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = damaged(path, fmt.Errorf("%v", p))
		}
	}()
	return f()
}

func damaged(path string, err error) error {
	return mesh.Refuse(DataDamaged, "restore it from a copy, or move it away, start the agent and join again", "the store %s is damaged (%v)", path, err)
}

func openError(path string, err error) error {
	_, inSystem := errors.AsType[*fs.PathError](err)
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		holder := ""
		if pid := lockHolder(path); pid != 0 {
			holder = fmt.Sprintf(" (pid %d)", pid)
		}
		return mesh.Refuse(DataDirInUse, "stop it or give --data-dir", "another agent%s uses data directory %s", holder, filepath.Dir(path))
	case diskError(path, err) != nil:
		return diskError(path, err)
	case inSystem:
		return fmt.Errorf("open store: %w", err)
	default:
		return damaged(path, err)
	}
}

// diskError is nil where err is not a disk's.
func diskError(path string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return mesh.Refuse(DiskFull, "free space there: the agent goes on by itself, and nothing that it had said to be done is lost", "there is no room for the store %s (%v)", path, err)
	case errors.Is(err, syscall.EROFS), errors.Is(err, bolterrors.ErrDatabaseReadOnly):
		return mesh.Refuse(DiskReadOnly, "mount it writable again (mount -o remount,rw) and look at dmesg for why it is not", "the store %s is on a disk that cannot be written (%v)", path, err)
	case errors.Is(err, syscall.EIO):
		return mesh.Refuse(DiskFailing, "look at dmesg, move the data directory to another disk, and start the agent there", "the disk of the store %s fails (%v)", path, err)
	default:
		return nil
	}
}

// lockHolder looks in /proc/locks for who has the file; 0 where it is not told.
func lockHolder(path string) int {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	table, err := os.ReadFile("/proc/locks")
	if !ok || err != nil {
		return 0
	}
	inode := ":" + strconv.FormatUint(st.Ino, 10)
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line) // 1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF
		if len(f) < 6 || f[1] != "FLOCK" || !strings.HasSuffix(f[5], inode) {
			continue
		}
		if pid, err := strconv.Atoi(f[4]); err == nil && pid > 0 {
			return pid
		}
	}
	return 0
}

func (s *store) close() error { return s.db.Close() }

func (s *store) load(path string) (*saved, error) {
	content := &saved{Left: map[mesh.Key]error{}, Lifetimes: map[mesh.EndpointID]lifetime{}}
	err := s.db.Update(func(tx *bolt.Tx) error {
		meta := bucket(tx, bucketMeta)
		if first, _ := tx.Cursor().First(); first == nil {
			return s.create(tx, content)
		} else if meta == nil {
			return damaged(path, errors.New("who this node is is missing"))
		}
		switch format := string(meta.Get([]byte(keyFormat))); format {
		case strconv.Itoa(storeFormat):
		case strconv.Itoa(storeFormat - 1):
			if err := upgrade(tx); err != nil {
				if mesh.ReasonOf(err) != "" {
					return err
				}
				return damaged(path, err)
			}
		default:
			return mesh.Refuse(DataVersion, "run the version of sluice that wrote it, or give --data-dir",
				"the store %s has format %.20q and this agent reads %d", path, format, storeFormat)
		}
		err := content.read(tx)
		if err != nil && mesh.ReasonOf(err) != gossip.UnknownVersion {
			return damaged(path, err)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read store: %w", structural(path, err))
	}
	return content, nil
}

// bucket is nil where there is none of the name.
func bucket(tx *bolt.Tx, name string) *bolt.Bucket { return tx.Bucket([]byte(name)) }

// create makes the buckets and the node's identity.
func (s *store) create(tx *bolt.Tx, content *saved) error {
	for _, name := range []string{bucketMeta, bucketRecords, bucketLifetimes} {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return err
		}
	}
	content.Key = trust.NewKey()
	content.ID = content.Key.ID()
	meta := bucket(tx, bucketMeta)
	return errors.Join(
		meta.Put([]byte(keyFormat), []byte(strconv.Itoa(storeFormat))),
		meta.Put([]byte(keyNode), content.Key.Seed()),
	)
}

// newID makes the random ID of a new noun.
func newID[T ~string]() T {
	var b [mesh.IDLength / 2]byte
	rand.Read(b[:]) // never fails: it ends the program where there is no randomness
	return T(hex.EncodeToString(b[:]))
}

func (c *saved) read(tx *bolt.Tx) error {
	meta, records, lifetimes := bucket(tx, bucketMeta), bucket(tx, bucketRecords), bucket(tx, bucketLifetimes)
	if records == nil || lifetimes == nil {
		return errors.New("a bucket is missing")
	}
	if err := c.readIdentity(meta); err != nil {
		return err
	}
	if err := records.ForEach(c.readRecord); err != nil {
		return err
	}
	return lifetimes.ForEach(func(k, v []byte) error {
		var l lifetime
		if err := json.Unmarshal(v, &l); err != nil {
			return fmt.Errorf("lifetime %.60q: %w", k, err)
		}
		c.Lifetimes[mesh.EndpointID(k)] = l
		return nil
	})
}

func (c *saved) readIdentity(meta *bolt.Bucket) error {
	var err error
	if c.Key, err = trust.ParseKey(meta.Get([]byte(keyNode))); err != nil {
		return fmt.Errorf("the node's key: %w", err)
	}
	c.ID = c.Key.ID()
	text := meta.Get([]byte(keyBundle))
	if text == nil {
		return nil
	}
	bundle, err := trust.ParseBundle(text)
	if err != nil {
		return fmt.Errorf("the cluster's keys: %w", err)
	}
	c.Member = &membership{bundle: bundle, cert: bytes.Clone(meta.Get([]byte(keyCertificate)))}
	if c.Member.lineage, err = parseLineage(meta.Get([]byte(keyLineage))); err != nil {
		return err
	}
	c.Member.trail, err = trust.ParseTrail(meta.Get([]byte(keyTrail)), bundle.Authority)
	return err
}

// readRecord leaves out what is no record (any more): another node will send it again.
// What this node says of itself nobody else can say.
func (c *saved) readRecord(k, v []byte) error {
	r, err := gossip.Decode(v, nil)
	if err == nil {
		c.Records = append(c.Records, r)
		return nil
	}
	kind, id, _ := strings.Cut(string(k), "/")
	key := mesh.Key{Kind: mesh.Kind(kind), ID: id}
	if key == (mesh.Key{Kind: mesh.KindNode, ID: string(c.ID)}) {
		return fmt.Errorf("record of this node: %w", err)
	}
	c.Left[key] = err
	return nil
}
