package consumers

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/nats-io/nkeys"

	"github.com/pagestream/pagestream/streams/embedded"
)

// ErrAccounts is returned when the configuration of an external NATS server can't be
// written for an account or a consumer.
var ErrAccounts = errors.New("no NATS configuration can be written")

const (
	accountPrefix = "pagestream-consumer-"
	// nobodyPrefix starts subjects that no stream has and nobody listens to.
	nobodyPrefix = "_nobody."
)

// natsName is what names of accounts, streams and consumers consist of. Nothing in them
// has to be quoted in the configuration of a NATS server.
var natsName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// Accounts is configuration for an external NATS server, in its own format.
type Accounts struct {
	// Exports belongs into the account of pagestream. It lets the account of each
	// consumer, and no other, request that consumer's events.
	Exports string
	// Accounts belongs into the server's accounts. It has one for each consumer.
	Accounts string
}

// NATSAccounts returns the configuration for consumers whose streams are in an account
// of an external NATS server. Each consumer gets an account of its own, so that nothing
// that its user sends, not even the reply subject of a request, reaches a subject of
// pagestream's account other than the three that a consumer needs. It fails with
// [ErrAccounts].
func NATSAccounts(account string, list []Consumer) (Accounts, error) {
	if !natsName.MatchString(account) {
		return Accounts{}, fmt.Errorf("%w: account %q is not letters, digits, - and _", ErrAccounts, account)
	}
	var exports, accounts strings.Builder
	exports.WriteString("# Written by pagestream. Include this file in the account of pagestream.\nexports: [\n")
	accounts.WriteString("# Written by pagestream. Include this file in the accounts of the server.\n")
	for _, c := range list {
		if !validName.MatchString(c.Name) || !natsName.MatchString(c.Stream) || !natsName.MatchString(c.Durable) ||
			!nkeys.IsValidPublicUserKey(c.PublicKey) {
			return Accounts{}, fmt.Errorf("%w: consumer %q has no valid name, stream or key", ErrAccounts, c.Name)
		}
		own, subjects := accountPrefix+c.Name, c.requests()
		nobody := nobodyPrefix + own
		fmt.Fprintf(&accounts, "%q: {\n  users: [{nkey: %s, permissions: {publish: [\"%s\"], subscribe: \"_INBOX.>\"}}]\n",
			own, c.PublicKey, strings.Join(subjects, `", "`))
		fmt.Fprintf(&accounts, "  limits: {max_connections: %d, max_subscriptions: %d, max_payload: %d, max_leafnodes: 0}\n",
			embedded.MaxUserConnections, embedded.MaxUserSubscriptions, embedded.MaxUserPayload)
		accounts.WriteString("  imports: [\n")
		for i, subject := range subjects {
			kind := "singleton"
			if i == 0 {
				kind = "stream" // one request, many messages
			}
			fmt.Fprintf(&exports, "  {service: %q, response_type: %s, accounts: [%q]}\n", subject, kind, own)
			fmt.Fprintf(&accounts, "    {service: {account: %q, subject: %q}}\n", account, subject)
		}
		fmt.Fprintf(&exports, "  {service: %q, accounts: [%q]}\n", nobody, own)
		fmt.Fprintf(&accounts, `    # Without this import the server answers the requests above itself: that this account
    # has no JetStream. Nobody answers the subject.
    {service: {account: %q, subject: %q}, to: "$JS.API.INFO"}
  ]
}
`, account, nobody)
	}
	exports.WriteString("]\n")
	return Accounts{Exports: exports.String(), Accounts: accounts.String()}, nil
}

// requests returns the subjects that the consumer's user publishes to: those for
// requesting messages, for the consumer's state, and for acknowledgements.
func (c Consumer) requests() []string {
	at := c.Stream + "." + c.Durable
	return []string{"$JS.API.CONSUMER.MSG.NEXT." + at, "$JS.API.CONSUMER.INFO." + at, "$JS.ACK." + at + ".>"}
}
