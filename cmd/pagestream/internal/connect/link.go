package connect

import (
	"context"
	"errors"
	"fmt"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
)

// unlinkTries is how often an account is unlinked after a concurrent change of its page.
const unlinkTries = 4

// checkLink asks Graph which Instagram account is linked to the page, and stores
// page.linked if it is another one than before. It returns the event's sequence, 0 for
// no event. If Graph does not answer, or the token may not see the account, nothing is
// known and nothing changes.
func (op *operation) checkLink(ctx context.Context) (uint64, error) {
	account, err := op.graph.Instagram(ctx, string(op.page), op.token)
	if err != nil || account == op.conn.Instagram {
		return 0, nil //nolint:nilerr // the next check asks again
	}
	if err := op.c.unlinkElsewhere(ctx, op.page, account); err != nil {
		return 0, err
	}
	seq, err := op.recordLink(ctx, account, "read from graph")
	if err != nil {
		return 0, err
	}
	op.lastPage, op.conn.Instagram = seq, account
	return seq, nil
}

// recordLink stores page.linked; no account means that there is none.
func (op *operation) recordLink(ctx context.Context, account, reason string) (uint64, error) {
	return op.append(ctx, op.lastPage, domain.PageLinked, domain.Data{Connection: &domain.Connection{
		ConnectionID: op.conn.ConnectionID, App: op.conn.App, Name: op.conn.Name, Instagram: account, Reason: reason,
	}})
}

// unlinkElsewhere unlinks an Instagram account at the connected page that has it, if
// that is another page than the given one, so that the events of both pages agree. The
// event does not name the other page, which may be another company's.
func (c *Connector) unlinkElsewhere(ctx context.Context, page domain.PageID, account string) error {
	if account == "" {
		return nil
	}
	var err error
	for range unlinkTries {
		if err = c.unlink(ctx, page, account); !errors.Is(err, ErrChanged) {
			return err
		}
	}
	return err
}

func (c *Connector) unlink(ctx context.Context, page domain.PageID, account string) error {
	holder, err := c.opts.Pages.LinkedTo(ctx, account)
	if err != nil {
		return fmt.Errorf("find page of account %s: %w", account, err)
	}
	if holder == "" || holder == page {
		return nil
	}
	op, err := c.start(ctx, holder)
	if errors.Is(err, meta.ErrNotConnected) || err == nil && op.conn.Instagram != account {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = op.recordLink(ctx, "", "the account is linked to another page")
	return err
}
