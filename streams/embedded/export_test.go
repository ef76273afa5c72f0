package embedded

import "os"

// BeginOverwrite does what Overwrite does before it changes a block that is not compressed.
func (c *Checkpoints) BeginOverwrite(block uint64, deleted []uint64) error {
	created, err := Created(c.dir, c.stream)
	if err != nil {
		return err
	}
	f, err := os.Open(Mark{Block: block}.path(c.dir, c.stream))
	if err != nil {
		return err
	}
	defer f.Close()
	wanted := map[uint64]bool{}
	for _, seq := range deleted {
		wanted[seq] = true
	}
	b, _, err := contentOf(f, 0)
	if err != nil {
		return err
	}
	sums, err := sumsOf(c.stream, block)
	if err != nil {
		return err
	}
	records, _, err := sums.recordsOf(block, b, wanted)
	if err != nil {
		return err
	}
	return c.begin(overwrites{Created: created, Records: records})
}

// Readable returns what can be read of a block's file, and whether it is all.
func Readable(stream string, block uint64, b []byte, last bool) (records []byte, whole bool, err error) {
	sums, err := sumsOf(stream, block)
	if err != nil {
		return nil, false, err
	}
	records, whole = sums.readable(b, last)
	return records, whole, nil
}

// Compress returns the file of a compressed block with these records.
func Compress(records []byte) ([]byte, error) { return compress(records) }
