package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"slices"
)

// The layout of a bbolt file, as far as CheckFile needs it. Numbers are in the machine's byte order.
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	pageHeader  = 16 // id (8), flags (2), count (2), overflow (4)
	elementSize = 16 // of a branch page: position, key size, page id; of a leaf page: flags, position, key and value size
	bucketSize  = 16 // root page, sequence
	metaSize    = 64 // magic, version, page size, flags, root bucket (16), freelist, end of the pages, txid, checksum
	metaSummed  = 56

	minPageSize, maxPageSize = 1 << 10, 64 << 10

	branchPage, leafPage, freelistPage = 0x01, 0x02, 0x10

	bucketFlag = 1
	noFreelist = ^uint64(0)

	// maxDepth is more levels than a tree of this file can have. maxCheckedPage bounds the memory for one page with
	// its overflow.
	maxDepth       = 32
	maxCheckedPage = 512 << 20
)

var native = binary.NativeEndian

// CheckFile reads a whole file that is not being written to, and fails with an error that wraps [ErrCorrupt] if any
// page or row of the file is not as it was written. It never maps the file and doesn't use bbolt, which can end the
// process when a page of a damaged file points at itself; it is safe with any content. It takes no lock.
//
// Damage in pages that nothing refers to is not found, nor is an older state of the whole file.
func CheckFile(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("check store: %w", err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("check store: %w", err)
	}
	c := checker{ctx: ctx, file: f, size: info.Size()}
	if err := c.check(); err != nil {
		return fmt.Errorf("check %s: %w", path, err)
	}
	return nil
}

// checker reads one file.
type checker struct {
	ctx      context.Context //nolint:containedctx // of one call of CheckFile
	file     io.ReaderAt
	size     int64
	pageSize uint64
	pages    uint64   // the ids of all pages are below
	used     []uint64 // a bit for each page that was seen
	sums     bool     // rows have checksums
	wasSums  bool     // a row of a file without the mark has one
}

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

func (c *checker) check() error {
	meta, err := c.meta()
	if err != nil {
		return err
	}
	root, freelist := native.Uint64(meta[16:]), native.Uint64(meta[32:])
	c.pages = native.Uint64(meta[40:])
	if c.pages < 2 || c.pages > uint64(c.size)/c.pageSize {
		return broken("the file has %d bytes and should have %d pages of %d", c.size, c.pages, c.pageSize)
	}
	c.used = make([]uint64, c.pages/64+1)
	if freelist != noFreelist {
		if err := c.freelist(freelist); err != nil {
			return err
		}
	}
	if err := c.findMark(root); err != nil {
		return err
	}
	if err := c.tree(root, nil, nil, 0, nil); err != nil {
		return err
	}
	if c.wasSums {
		return broken("the mark of the checksums is missing")
	}
	return nil
}

// meta returns the newer one of the valid headers. A crash can leave one that is not valid; the other is then that of
// the last commit.
func (c *checker) meta() (newest []byte, err error) {
	first := make([]byte, metaSize)
	// Without the first header the size of a page is not known, and so the place of the second one.
	for at := int64(0); at <= maxPageSize; at = max(at<<1, minPageSize) {
		if c.pageSize > 0 && uint64(at) != c.pageSize {
			continue
		}
		if _, err := c.file.ReadAt(first, at+pageHeader); errors.Is(err, io.EOF) {
			continue
		} else if err != nil {
			return nil, c.readError(uint64(at), err)
		}
		size := int64(native.Uint32(first[8:]))
		if !validMeta(first) || at > 0 && at != size {
			continue
		}
		c.pageSize = uint64(size)
		if newest == nil || native.Uint64(first[48:]) > native.Uint64(newest[48:]) {
			newest = slices.Clone(first)
		}
	}
	if newest == nil {
		return nil, broken("it has no valid header")
	}
	return newest, nil
}

func validMeta(m []byte) bool {
	h := fnv.New64a()
	h.Write(m[:metaSummed])
	size := native.Uint32(m[8:])
	return native.Uint32(m) == boltMagic && native.Uint32(m[4:]) == boltVersion &&
		h.Sum64() == native.Uint64(m[metaSummed:]) &&
		size >= minPageSize && size <= maxPageSize && size&(size-1) == 0
}

// use marks pages as used, and fails if one was used already.
func (c *checker) use(id, n uint64) error {
	if id < 2 || id >= c.pages || n > c.pages-id {
		return broken("page %d is not in the file", id)
	}
	for ; n > 0; id, n = id+1, n-1 {
		if c.used[id/64]&(1<<(id%64)) != 0 {
			return broken("page %d is used twice", id)
		}
		c.used[id/64] |= 1 << (id % 64)
	}
	return nil
}

// read reads a page with its overflow. It doesn't mark it as used.
func (c *checker) read(id uint64) (page []byte, pages uint64, err error) {
	if err := c.ctx.Err(); err != nil {
		return nil, 0, err
	}
	if id < 2 || id >= c.pages {
		return nil, 0, broken("page %d is not in the file", id)
	}
	head := make([]byte, pageHeader)
	if _, err := c.file.ReadAt(head, int64(id*c.pageSize)); err != nil {
		return nil, 0, c.readError(id, err)
	}
	pages = 1 + uint64(native.Uint32(head[12:]))
	if native.Uint64(head) != id || pages > c.pages-id || pages*c.pageSize > maxCheckedPage {
		return nil, 0, broken("the head of page %d is not valid", id)
	}
	page = make([]byte, pages*c.pageSize)
	if _, err := c.file.ReadAt(page, int64(id*c.pageSize)); err != nil {
		return nil, 0, c.readError(id, err)
	}
	return page, pages, nil
}

// readError turns an error of reading into ErrCorrupt: what can't be read has to be built again.
func (c *checker) readError(id uint64, err error) error {
	return fmt.Errorf("%w: read page %d: %w", ErrCorrupt, id, err)
}

// freelist marks the page of the list of free pages, and the free pages themselves.
func (c *checker) freelist(id uint64) error {
	page, pages, err := c.read(id)
	if err != nil {
		return err
	}
	if err := c.use(id, pages); err != nil {
		return err
	}
	n, ids := uint64(native.Uint16(page[10:])), page[pageHeader:]
	if n == 0xFFFF { // the number is in front of the list
		n, ids = native.Uint64(ids), ids[8:]
	}
	if native.Uint16(page[8:]) != freelistPage || n > uint64(len(ids)/8) {
		return broken("page %d is not a list of free pages", id)
	}
	last := uint64(1)
	for i := range n {
		free := native.Uint64(ids[8*i:])
		if free <= last {
			return broken("the list of free pages is out of order")
		}
		if err := c.use(free, 1); err != nil {
			return err
		}
		last = free
	}
	return nil
}

// bucket is the bucket that a page belongs to; nil means the list of buckets.
type bucket struct {
	name string
	sum  uint32
}

// tree checks a page of a bucket and the pages below it. Its keys are at least low and less than high; nil means no
// bound.
func (c *checker) tree(id uint64, low, high []byte, depth int, of *bucket) error {
	if depth > maxDepth {
		return broken("page %d is below %d others", id, maxDepth)
	}
	page, pages, err := c.read(id)
	if err != nil {
		return err
	}
	if err := c.use(id, pages); err != nil {
		return err
	}
	return c.page(page, id, low, high, depth, of)
}

// page checks the content of a page.
func (c *checker) page(page []byte, id uint64, low, high []byte, depth int, of *bucket) error {
	flags := native.Uint16(page[8:])
	list, err := elements(page)
	switch {
	case err != nil:
		return fmt.Errorf("page %d: %w", id, err)
	case flags != branchPage && flags != leafPage:
		return broken("page %d is no page of a tree", id)
	case len(list) == 0 && (depth > 0 || flags == branchPage):
		return broken("page %d is empty", id)
	}
	for i, e := range list {
		if i > 0 {
			low = list[i-1].key
		}
		if order := bytes.Compare(e.key, low); order < 0 || i > 0 && order == 0 ||
			high != nil && bytes.Compare(e.key, high) >= 0 {
			return broken("page %d is out of order", id)
		}
		switch {
		case flags == branchPage:
			next := high
			if i+1 < len(list) {
				next = list[i+1].key
			}
			err = c.tree(e.child, e.key, next, depth+1, of)
		case of == nil:
			err = c.bucket(e)
		case e.flags != 0:
			err = broken("page %d has a bucket in %s", id, of.name)
		default:
			err = c.row(e, of)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bucket checks one bucket, which is a row of the list of buckets. The page of a small one is in that row.
func (c *checker) bucket(e element) error {
	if e.flags != bucketFlag || len(e.value) < bucketSize || native.Uint64(e.value[8:]) != 0 {
		return broken("an entry of the list of buckets is not valid")
	}
	of := &bucket{string(e.key), nameSum(string(e.key))}
	if root := native.Uint64(e.value); root != 0 {
		return c.tree(root, nil, nil, 0, of)
	}
	page := e.value[bucketSize:]
	if len(page) < pageHeader || native.Uint64(page) != 0 ||
		native.Uint16(page[8:]) != leafPage || native.Uint32(page[12:]) != 0 {
		return broken("the page of bucket %q is not valid", of.name)
	}
	return c.page(page, 0, nil, nil, 0, of)
}

func (c *checker) row(e element, of *bucket) error {
	_, ok := cutSum(of.sum, e.key, e.value)
	if c.sums && !ok {
		return broken("the checksum of a row in %s does not match", of.name)
	}
	c.wasSums = c.wasSums || !c.sums && ok
	return nil
}

// findMark sets sums. The list of buckets is short, so that it is one page.
func (c *checker) findMark(root uint64) error {
	page, _, err := c.read(root)
	if err != nil {
		return err
	}
	list, err := elements(page)
	if err != nil {
		return err
	}
	c.sums = native.Uint16(page[8:]) != leafPage ||
		slices.ContainsFunc(list, func(e element) bool { return string(e.key) == sumsBucket })
	return nil
}

// element is one entry of a page.
type element struct {
	key, value []byte
	flags      uint32 // of a leaf page
	child      uint64 // of a branch page
}

// elements returns the entries of a page. bbolt writes their keys and values one after the other, directly behind the
// list of entries, so that a wrong number, position or size is found.
func elements(page []byte) ([]element, error) {
	branch, n := native.Uint16(page[8:]) == branchPage, int(native.Uint16(page[10:]))
	at := uint64(pageHeader + n*elementSize)
	if at > uint64(len(page)) {
		return nil, broken("it has no room for %d entries", n)
	}
	list := make([]element, n)
	for i := range list {
		head := pageHeader + i*elementSize
		h := page[head:]
		var pos, ksize, vsize uint32
		e := &list[i]
		if branch {
			pos, ksize, e.child = native.Uint32(h), native.Uint32(h[4:]), native.Uint64(h[8:])
		} else {
			e.flags, pos, ksize, vsize = native.Uint32(h), native.Uint32(h[4:]), native.Uint32(h[8:]), native.Uint32(h[12:])
		}
		end := at + uint64(ksize) + uint64(vsize)
		if uint64(head)+uint64(pos) != at || end > uint64(len(page)) || ksize == 0 {
			return nil, broken("entry %d is not valid", i)
		}
		e.key, e.value = page[at:at+uint64(ksize)], page[at+uint64(ksize):end]
		at = end
	}
	return list, nil
}
