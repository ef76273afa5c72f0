package operate

import (
	"errors"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/apps"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/backfill"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/backup"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/companies"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/doctor"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/erase"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/erasures"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/login"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/losses"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/outbound"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/person"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/tokens"
	"github.com/pagestream/pagestream/domain/seal"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
)

// Errors of the verbs themselves.
var (
	// ErrUnknown is returned when no read model or reactor has the given name.
	ErrUnknown = errors.New("there is nothing of that name")
	// ErrUnknownCompany is returned when no company has the name.
	ErrUnknownCompany = errors.New("there is no company")
	// ErrNoLogin is returned when a login's id is unknown, or is more than half an
	// hour old.
	ErrNoLogin = errors.New("there is no such login, or it is over half an hour old; log in again")
	// ErrRequest is returned when a request is not valid; nothing was changed.
	ErrRequest = errors.New("the request is not valid")
	// ErrRealPage is returned when a page or account to mark as a test belongs to a connection, or did.
	ErrRealPage = errors.New("a page that is or was connected, or its account, can't be a test; see: pagestream pages show PAGE")
	// ErrNoCompany is returned when an invitation names no company.
	ErrNoCompany = errors.New("an invitation names the company that the pages will belong to: --company NAME")
	// ErrNewCompany is returned when an invitation names an unknown company and does not
	// say that it is a new one.
	ErrNewCompany = errors.New(
		"no company has this name; to add it, say --new-company, or type: pagestream companies add NAME",
	)
	// ErrReplicas is returned when the cluster can't keep that many copies of a stream; no stream was changed then.
	ErrReplicas = errors.New("the NATS servers can't keep that many copies: each copy needs a server of its own " +
		"with JetStream that is connected and has space; see: pagestream status --cluster")
	// ErrNoHooks is returned when no endpoint is configured.
	ErrNoHooks = errors.New("no webhooks to others are configured; set hooks.file")
)

// Kind is what an error of a verb means for its caller.
type Kind int

// The kinds of an error.
const (
	// Failed means that something the verb needs did not work: Graph, the network or
	// the disk.
	Failed Kind = iota
	// Refused means that the request is not valid or not possible.
	Refused
	// Unknown means that the named object does not exist.
	Unknown
	// Busy means that the same operation is running already.
	Busy
)

// kinds maps each sentinel that is not [Failed] to its kind.
var kinds = map[error]Kind{
	ErrUnknown: Unknown, ErrNoHooks: Unknown, meta.ErrNotConnected: Unknown, projections.ErrNoRow: Unknown,
	projections.ErrNoDeadLetter: Unknown, consumers.ErrUnknown: Unknown, hooks.ErrUnknownEndpoint: Unknown,
	hooks.ErrNoDeadLetter: Unknown, pages.ErrNotFound: Unknown, companies.ErrUnknown: Unknown, tokens.ErrUnknown: Unknown,
	person.ErrNothing: Unknown,

	projections.ErrBuilding: Busy,

	losses.ErrLost: Refused, ErrRequest: Refused, ErrUnknownCompany: Refused, ErrNoLogin: Refused, meta.ErrToken: Refused,
	meta.ErrTokenDead: Refused, login.ErrNoBaseURL: Refused, login.ErrReturnURL: Refused,
	seal.ErrPrimaryKey: Refused, connect.ErrKeyRetired: Refused, ErrKeyUsed: Refused,
	connect.ErrRequest: Refused, connect.ErrUnknownApp: Refused, connect.ErrTokenRefused: Refused,
	connect.ErrUserToken: Refused, connect.ErrMove: Refused, connect.ErrConnected: Refused, companies.ErrName: Refused, companies.ErrExists: Refused,
	ErrReplicas: Refused, ErrNoCompany: Refused, ErrNewCompany: Refused, outbound.ErrRequest: Refused, backfill.ErrRequest: Refused,
	backfill.ErrRunning: Refused, backup.ErrDirExists: Refused, backup.ErrPartial: Refused, backup.ErrRunning: Refused,
	backup.ErrRecipient: Refused, erasures.ErrExists: Refused, consumers.ErrName: Refused,
	consumers.ErrExists: Refused, consumers.ErrType: Refused, consumers.ErrTooMany: Refused,
	consumers.ErrPages: Refused, consumers.ErrRewind: Refused, consumers.ErrSpace: Refused,
	tokens.ErrName: Refused, tokens.ErrExists: Refused, tokens.ErrRequest: Refused,
	erase.ErrRequest: Refused, erase.ErrBusy: Refused, erase.ErrUnfinished: Refused, erase.ErrLeft: Refused,
	doctor.ErrUnknownPage: Refused, person.ErrDir: Refused, ErrRealPage: Refused,
	apps.ErrUnknownApp: Refused, apps.ErrNoClient: Refused, apps.ErrNoCallback: Refused, apps.ErrNoVerifyToken: Refused,
	apps.ErrElsewhere: Refused,
}

// KindOf returns the kind of an error. A refusal by Graph is [Refused], unless it is
// unknown whether a message was sent, which is [Failed].
func KindOf(err error) Kind {
	if errors.Is(err, outbound.ErrUnsure) {
		return Failed
	}
	if meta.Refused(err) != nil {
		return Refused
	}
	for sentinel, kind := range kinds {
		if errors.Is(err, sentinel) {
			return kind
		}
	}
	return Failed
}
