package cli

import (
	"fmt"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
)

// KeysCommand groups the commands for the keys that seal page tokens.
type KeysCommand struct {
	List   KeysListCommand   `cmd:"" help:"List the ids of the keys, the one in use first."`
	Rotate KeysRotateCommand `cmd:"" help:"Create a new key and seal every page's tokens with it."`
}

// KeysListCommand lists key ids.
type KeysListCommand struct{}

// Run prints the ids. They are random and not secret.
func (KeysListCommand) Run(c *CLI) error {
	out, err := get[api.List[string]](c, "/api/v1/keys", nil)
	return c.answer(out.Items, err, func() {
		for i, id := range out.Items {
			use := "for tokens sealed before"
			if i == 0 {
				use = "in use"
			}
			fmt.Fprintf(c.Out, "%s  %s\n", id, use)
		}
	})
}

// KeysRotateCommand rotates the key that seals page tokens.
type KeysRotateCommand struct{}

// Run rotates the key and prints the number of pages whose tokens are sealed with it. It fails
// if the tokens of a page are still sealed with an older key.
func (KeysRotateCommand) Run(c *CLI) error {
	progress := func(k operate.KeyRotation) { c.redraw("%d pages sealed", k.Resealed) }
	k, err := follow[operate.KeyRotation, operate.KeyRotation](c, "/api/v1/keys/rotate", nil, progress)
	err = c.answer(k, err, func() {
		fmt.Fprintf(c.Out, "key %s is in use; the tokens of %d pages are sealed with it. Back up the key file.\n",
			k.Key, k.Resealed)
	})
	if err == nil && len(k.Failed) > 0 {
		return fmt.Errorf("the tokens of %d pages are still sealed with an older key: %v; "+
			"run the command again, or see the server's log", len(k.Failed), k.Failed)
	}
	return err
}
