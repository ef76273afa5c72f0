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
	records, _, err := c.recordsOf(block, b, wanted)
	if err != nil {
		return err
	}
	return c.begin(overwrites{Created: created, Records: records})
}
