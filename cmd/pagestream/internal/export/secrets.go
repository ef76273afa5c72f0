package export

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// Tokens are the sealed tokens that events of an earlier version have in their
// connection.
type Tokens struct {
	ConnectionID string `json:"connection_id"`
	Token        string `json:"sealed_token"`
	VerifyToken  string `json:"sealed_verify_token"`
}

// maxTokens bounds the sealed tokens of an event in bytes; they have a few hundred. A secret may have
// those of two events, each byte becomes up to six in JSON, and NATS servers take 1 MiB by default.
const maxTokens = 64 << 10

// sealedTokens returns the sealed tokens in the event of a message; found is false if it
// has none.
func sealedTokens(m *nats.Msg) (e streams.Stored, t Tokens, found bool, err error) {
	if !bytes.Contains(m.Data, []byte(`"sealed_`)) {
		return e, t, false, nil
	}
	var old struct {
		Connection Tokens `json:"connection"`
	}
	if json.Unmarshal(m.Data, &old) != nil || old.Connection.Token == "" && old.Connection.VerifyToken == "" {
		return e, t, false, nil
	}
	e, err = streams.Decode(m.Subject, m.Header, m.Data, 0, time.Time{})
	if err != nil || e.Data.Connection == nil {
		return e, t, false, fmt.Errorf("%w: it has sealed tokens, but is not an event", ErrLine)
	}
	t = old.Connection
	if len(t.ConnectionID)+len(t.Token)+len(t.VerifyToken) > maxTokens {
		return e, t, false, fmt.Errorf("%w: its sealed tokens have more than %d bytes", ErrLine, maxTokens)
	}
	return e, t, true, nil
}

// moveTokens replaces the sealed tokens in an event by the reference of a secret, which
// secret returns; see ImportOptions.Secret. Other messages are not changed.
func (im *importer) moveTokens(
	ctx context.Context, m *nats.Msg, secret func(context.Context, domain.PageID, Tokens) (ref string, err error),
) error {
	e, tokens, found, err := sealedTokens(m)
	if err != nil || !found {
		return err
	}
	before := im.tokens[e.Page]
	if before.ConnectionID == tokens.ConnectionID && e.Type == domain.PageTokenRefreshed {
		// What a refresh did not name stayed as it was.
		tokens.Token = cmp.Or(tokens.Token, before.Token)
		tokens.VerifyToken = cmp.Or(tokens.VerifyToken, before.VerifyToken)
	}
	im.tokens[e.Page] = tokens
	if e.Data.Connection.Secret, err = secret(ctx, e.Page, tokens); err != nil {
		return fmt.Errorf("store sealed tokens of page %s: %w", e.Page, err)
	}
	if m.Data, err = e.Data.Encode(); err != nil {
		return fmt.Errorf("%w: %w", ErrLine, err)
	}
	return im.fits(m)
}

// unstored stands for the reference of a secret while a file is checked.
func unstored(context.Context, domain.PageID, Tokens) (string, error) {
	return "000000000000000000000000", nil
}
