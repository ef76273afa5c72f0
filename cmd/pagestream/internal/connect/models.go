package connect

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

// Models implements [Pages] with the read models.
type Models struct {
	Pages, Subscriptions projections.Reader
	// Head returns the sequence of the stream's last event.
	Head func(context.Context) (uint64, error)
}

var _ Pages = Models{}

// waitFor waits until both models have applied event atLeast.
func (m Models) waitFor(ctx context.Context, atLeast uint64) error {
	for _, r := range []projections.Reader{m.Pages, m.Subscriptions} {
		if err := r.WaitFor(ctx, atLeast); err != nil {
			return fmt.Errorf("wait for read model: %w", err)
		}
	}
	return nil
}

// settleWait is how long [Models.Settle] waits at most.
const settleWait = 5 * time.Second

// Settle waits at most 5 seconds until both models have applied event seq. It returns
// no error: the operation is done, so a model that lags only delays its answer.
func (m Models) Settle(ctx context.Context, seq uint64) {
	ctx, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	_ = m.waitFor(ctx, seq)
}

// Connected lists the connected pages for which match returns true. It waits until
// the models have applied the last event of the stream.
func (m Models) Connected(ctx context.Context, match func(pages.Page) bool) (out []domain.PageID, err error) {
	last, err := m.Head(ctx)
	if err != nil {
		return nil, err
	}
	if err := m.waitFor(ctx, last); err != nil {
		return nil, err
	}
	err = pages.Each(m.Pages, func(p pages.Page) error {
		if p.State == pages.Connected && match(p) {
			out = append(out, p.ID)
		}
		return nil
	})
	return out, err
}

// LinkedTo implements [Pages]. It waits until the models have applied the last event of
// the stream.
func (m Models) LinkedTo(ctx context.Context, account string) (domain.PageID, error) {
	last, err := m.Head(ctx)
	if err != nil {
		return "", err
	}
	if err := m.waitFor(ctx, last); err != nil {
		return "", err
	}
	page, err := pages.ByInstagram(m.Pages, account)
	if errors.Is(err, pages.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read linked account: %w", err)
	}
	return page, nil
}

// ByAdmin implements [Pages].
func (m Models) ByAdmin(ctx context.Context, hash string, before time.Time) ([]domain.PageID, error) {
	return m.Connected(ctx, func(p pages.Page) bool {
		return p.Admin != "" && domain.AdminHash(p.App, p.Admin) == hash && (before.IsZero() || p.AdminSince.Before(before))
	})
}

// Known implements [Pages]: it waits until both models have applied event atLeast.
func (m Models) Known(ctx context.Context, page domain.PageID, atLeast uint64) (Known, error) {
	if err := m.waitFor(ctx, atLeast); err != nil {
		return Known{}, err
	}
	p, err := pages.Get(m.Pages, page)
	if errors.Is(err, pages.ErrNotFound) {
		return Known{}, nil
	}
	if err != nil {
		return Known{}, fmt.Errorf("read page: %w", err)
	}
	known := Known{
		Connected: p.State == pages.Connected,
		Connection: domain.Connection{
			ConnectionID: p.ConnectionID, Company: p.Company, App: p.App, Name: p.Name, Instagram: p.Instagram,
			Admin: p.Admin, Fields: p.Fields,
		},
		AdminSince: p.AdminSince,
		TokenDead:  p.Token == pages.TokenInvalid,
	}
	c, err := pages.Credentials(m.Pages, page)
	switch {
	case err == nil:
		known.Connection.Secret = c.Secret
	case !errors.Is(err, pages.ErrNoCredentials):
		return Known{}, fmt.Errorf("read credentials: %w", err)
	}
	sub, err := subscriptions.Get(m.Subscriptions, page, p.App)
	switch {
	case err == nil:
		known.State, known.Reason, known.Wanted, known.Actual = sub.State, sub.Reason, sub.Wanted, sub.Actual
	case !errors.Is(err, subscriptions.ErrNotFound):
		return Known{}, fmt.Errorf("read subscription: %w", err)
	}
	return known, nil
}
