package embedded

import "os"

// BeginOverwrite does what Overwrite does before it changes a block.
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
	_, err = c.begin(f, block, created, wanted)
	return err
}
