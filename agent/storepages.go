package agent

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"

	bolt "go.etcd.io/bbolt"
)

// The form of a page on the disk (bbolt's internal/common, format 2, in the machine's order
// of bytes): a header, then as many elements of 16 bytes.
const (
	pageHeader    = 16 // id, flags, count, overflow
	pageElement   = 16
	pageBranch    = 0x01
	pageLeaf      = 0x02
	elementBucket = 0x01 // of a leaf: the value is a bucket
	bucketHeader  = 16   // root page, sequence

	metaSize     = pageHeader + 56 // pages 0 and 1
	metaFreelist = pageHeader + 32 // page that lists the free ones
	metaTxID     = pageHeader + 48
	noFreelist   = ^uint64(0)
)

// checkPages refuses a file whose pages are no tree. bbolt follows what pages say of each
// other: in a circle it ends the program, in a way that nothing can catch, and a page
// that is in use and said to be free is written over by the next transaction.
func checkPages(db *bolt.DB) error {
	return db.View(func(tx *bolt.Tx) error {
		file, err := os.Open(db.Path())
		if err != nil {
			return err
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			return err
		}
		p := pages{tx: tx, file: file, size: uint64(db.Info().PageSize), seen: map[uint64]bool{}}
		p.count = uint64(min(tx.Size(), info.Size())) / p.size
		if err := p.walk(uint64(tx.Cursor().Bucket().Root())); err != nil {
			return err
		}
		return p.freelist()
	})
}

// pages reads those of a file one after another.
type pages struct {
	tx    *bolt.Tx
	file  io.ReaderAt
	size  uint64 // bytes of one
	count uint64
	seen  map[uint64]bool // by number
}

// walk visits a page and all below it, each once. It is no recursion: how deep a broken
// file is nobody knows.
func (p *pages) walk(root uint64) error {
	for open := []uint64{root}; len(open) > 0; {
		id := open[len(open)-1]
		open = open[:len(open)-1]
		page, err := p.read(id)
		if err != nil {
			return err
		}
		below, err := children(page)
		if err != nil {
			return fmt.Errorf("page %d: %w", id, err)
		}
		open = append(open, below...)
	}
	return nil
}

// freelist visits the pages of the list that the transaction's meta page names.
func (p *pages) freelist() error {
	meta := make([]byte, metaSize)
	for i := range int64(2) {
		if _, err := p.file.ReadAt(meta, i*int64(p.size)); err != nil {
			return err
		}
		list := binary.NativeEndian.Uint64(meta[metaFreelist:])
		if binary.NativeEndian.Uint64(meta[metaTxID:]) != uint64(p.tx.ID()) || list == noFreelist {
			continue
		}
		_, err := p.read(list)
		return err
	}
	return nil
}

// read returns a page with those that it runs on over, and marks them.
func (p *pages) read(id uint64) ([]byte, error) {
	if id < 2 || id >= p.count {
		return nil, fmt.Errorf("page %d is none of the %d", id, p.count)
	}
	header := make([]byte, pageHeader)
	if _, err := p.file.ReadAt(header, int64(id*p.size)); err != nil {
		return nil, err
	}
	last := id + uint64(binary.NativeEndian.Uint32(header[12:]))
	if binary.NativeEndian.Uint64(header) != id || last >= p.count {
		return nil, fmt.Errorf("page %d says to be page %d to %d", id, binary.NativeEndian.Uint64(header), last)
	}
	for at := id; at <= last; at++ {
		if p.seen[at] {
			return nil, fmt.Errorf("page %d is used twice", at)
		}
		p.seen[at] = true
		if info, err := p.tx.Page(int(at)); err != nil || info == nil || info.Type == "free" {
			return nil, fmt.Errorf("page %d is used, and listed as free", at)
		}
	}
	page := make([]byte, (last-id+1)*p.size)
	_, err := p.file.ReadAt(page, int64(id*p.size))
	return page, err
}

// children are the pages that a page points to.
func children(page []byte) ([]uint64, error) {
	flags, count := binary.NativeEndian.Uint16(page[8:]), int(binary.NativeEndian.Uint16(page[10:]))
	if pageHeader+count*pageElement > len(page) {
		return nil, fmt.Errorf("%d elements in %d bytes", count, len(page))
	}
	var below []uint64
	for i := range count {
		at := pageHeader + i*pageElement
		element := page[at:]
		switch flags {
		case pageBranch:
			if _, err := valueOf(element, 0, 4); err != nil {
				return nil, err
			}
			below = append(below, binary.NativeEndian.Uint64(element[8:]))
		case pageLeaf:
			value, err := valueOf(element, 4, 8, 12)
			if err != nil {
				return nil, err
			}
			if root, err := bucketRoot(element, value); err != nil {
				return nil, err
			} else if root != 0 {
				below = append(below, root)
			}
		}
	}
	if flags != pageBranch && flags != pageLeaf || flags == pageBranch && count == 0 {
		return nil, fmt.Errorf("flags %x with %d elements", flags, count)
	}
	return below, nil
}

// valueOf returns the last of an element's parts. Where the first begins, and how long each is,
// stands in those of its fields.
func valueOf(element []byte, fields ...int) ([]byte, error) {
	var from, end uint64
	for _, field := range fields {
		from, end = end, end+uint64(binary.NativeEndian.Uint32(element[field:]))
	}
	if end > uint64(len(element)) {
		return nil, fmt.Errorf("an element ends %d bytes behind its page", end-uint64(len(element)))
	}
	return element[from:end], nil
}

// bucketRoot is the page that a leaf's value begins a bucket at; 0 where it is no bucket, or
// one that is whole in the value.
func bucketRoot(element, value []byte) (uint64, error) {
	if binary.NativeEndian.Uint32(element)&elementBucket == 0 {
		return 0, nil
	}
	if len(value) < bucketHeader {
		return 0, fmt.Errorf("a bucket has %d bytes", len(value))
	}
	root := binary.NativeEndian.Uint64(value)
	if root != 0 {
		return root, nil
	}
	inline := value[bucketHeader:]
	if len(inline) < pageHeader || binary.NativeEndian.Uint16(inline[8:]) != pageLeaf {
		return 0, fmt.Errorf("a bucket in a value is no leaf")
	}
	below, err := children(inline)
	if err == nil && len(below) > 0 {
		err = fmt.Errorf("a bucket in a value points to pages")
	}
	return 0, err
}
