package cli

import (
	"fmt"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
)

// KeysCommand groups what concerns the keys that seal page tokens.
type KeysCommand struct {
	List   KeysListCommand   `cmd:"" help:"List the ids of the keys, the one in use first."`
	Rotate KeysRotateCommand `cmd:"" help:"Make a new key and seal every page's tokens with it."`
}

// KeysListCommand lists key ids.
type KeysListCommand struct{}

// Run prints the ids. They are random and not secret.
func (KeysListCommand) Run(c *CLI) error {
	out, err := get[api.List[string]](c, "/api/v1/keys", nil)
	return c.answer(out.Items, err, func() {
		for i, id := range out.Items {
			use := "opens what it sealed"
			if i == 0 {
				use = "in use"
			}
			fmt.Fprintf(c.Out, "%s  %s\n", id, use)
		}
	})
}

// KeysRotateCommand rotates the key.
type KeysRotateCommand struct{}

// Run rotates the key and prints how many pages have their tokens under it.
func (KeysRotateCommand) Run(c *CLI) error {
	k, err := follow[operate.KeyRotation, operate.KeyRotation](c, "/api/v1/keys/rotate", nil, func(k operate.KeyRotation) {
		c.redraw("%d pages sealed", k.Resealed)
	})
	err = c.answer(k, err, func() {
		fmt.Fprintf(c.Out, "key %s is in use; the tokens of %d pages are sealed with it. Back up the key file.\n", k.Key, k.Resealed)
	})
	if err == nil && len(k.Failed) > 0 {
		return fmt.Errorf("the tokens of %d pages are still under an older key: %v; run it again, or see the server's log", len(k.Failed), k.Failed)
	}
	return err
}
