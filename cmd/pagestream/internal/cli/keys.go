package cli

import (
	"fmt"
	"net/url"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
)

// KeysCommand groups the commands for the keys that seal page tokens.
type KeysCommand struct {
	List   KeysListCommand   `cmd:"" help:"List the ids of the keys, the one in use first, and how many secrets use each."`
	Rotate KeysRotateCommand `cmd:"" help:"Create a new key and seal every page's tokens with it."`
	Retire KeysRetireCommand `cmd:"" help:"Seal the tokens of an old key with the one in use, and remove the old key."`
}

// KeysListCommand lists key ids.
type KeysListCommand struct{}

// Run prints the ids, which are random and not secret, and the number of stored secrets that are
// sealed with each key.
func (KeysListCommand) Run(c *CLI) error {
	out, err := get[operate.Keys](c, "/api/v1/keys", nil)
	return c.answer(out, err, func() {
		for i, id := range out.Items {
			use := "for tokens sealed before"
			if i == 0 {
				use = "in use"
			}
			fmt.Fprintf(c.Out, "%s  %6d secrets  %s\n", id, out.Secrets[id], use)
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

// KeysRetireCommand removes a key.
type KeysRetireCommand struct {
	ID string `arg:"" help:"Id of the key, see keys list. The key in use can't be retired: rotate first."`
}

// Run removes a key from the key file when no stored secret uses it any more.
func (k KeysRetireCommand) Run(c *CLI) error {
	progress := func(k operate.KeyRetirement) { c.redraw("%d pages sealed", k.Resealed) }
	path := "/api/v1/keys/" + url.PathEscape(k.ID) + "/retire"
	out, err := follow[operate.KeyRetirement, operate.KeyRetirement](c, path, nil, progress)
	return c.answer(out, err, func() {
		fmt.Fprintf(c.Out, "key %s is removed; the tokens of %d pages were sealed again. Back up the key file. "+
			"Backups from before need their own.\n", out.Key, out.Resealed)
	})
}
