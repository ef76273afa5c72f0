package api

import (
	"context"
	"io"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/audit"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/backfill"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/backup"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/doctor"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/erase"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/outbound"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/reconcile"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
)

// Operator carries the verbs out. Its errors are for the operator to read: they have
// no token in them, and [operate.KindOf] says what kind they are. An
// [operate.Operator] is one, and says what each does.
type Operator interface {
	ListPages(cursor string, limit int) ([]operate.Page, string, error)
	Page(id domain.PageID) (operate.Page, error)
	Connect(ctx context.Context, r connect.Request) (meta.Outcome, error)
	Check(ctx context.Context, page domain.PageID) (meta.Outcome, error)
	// Plan tells what Resubscribe would do, and does nothing.
	Plan(ctx context.Context, page domain.PageID) (meta.Outcome, error)
	Resubscribe(ctx context.Context, page domain.PageID) (meta.Outcome, error)
	Disconnect(ctx context.Context, page domain.PageID) (meta.Outcome, error)
	Examine(ctx context.Context, pages []domain.PageID) (doctor.Report, error)
	Reconcile() reconcile.Status

	Invite(ctx context.Context, r operate.InviteRequest) (operate.Invite, error)
	Login(ctx context.Context, app, userToken string) (operate.Login, error)
	ConnectChosen(ctx context.Context, id string, c meta.Choice, progress func(meta.Outcome)) (operate.Connected, error)

	Send(ctx context.Context, r outbound.Request) (outbound.Sent, error)
	Backfill(ctx context.Context, r backfill.Request, progress func(backfill.Progress)) (backfill.Sum, error)
	Erase(ctx context.Context, page domain.PageID, contact domain.ContactID) (erase.Result, error)
	// Past reads a conversation as it was at an event, or at a time if seq is 0.
	Past(ctx context.Context, page domain.PageID, contact domain.ContactID, seq uint64, at time.Time, read func(projections.Viewer) error) error

	Statuses() []projections.Status
	Rebuild(ctx context.Context, name string, progress func(projections.Rebuilding)) (projections.Rebuilt, error)
	Verify(ctx context.Context, name string, progress func(projections.Rebuilding)) (projections.Verified, error)
	Explain(ctx context.Context, name, bucket string, key []byte, progress func(projections.Rebuilding)) (projections.Trace, error)
	Audit(ctx context.Context, progress func(audit.Progress)) (audit.Report, error)

	DeadLetters(projection string, after projections.DeadLetter, limit int) ([]projections.DeadLetter, error)
	Decide(ctx context.Context, d operate.Decision) (operate.Decided, error)

	ListConsumers(ctx context.Context) ([]consumers.Consumer, error)
	AddConsumer(ctx context.Context, s consumers.Spec) (consumers.Added, error)
	RemoveConsumer(ctx context.Context, name string) error

	ListHooks() []hooks.Status
	HookDeadLetters(name string, after uint64, limit int) ([]hooks.DeadLetter, error)
	RedriveHook(name string, event uint64) (int, error)
	EnableHook(name string) error

	// KeyIDs lists the ids of the keys, the one in use first.
	KeyIDs() []string
	RotateKey(ctx context.Context, progress func(operate.KeyRotation)) (operate.KeyRotation, error)

	Export(ctx context.Context, r operate.ExportRequest, w io.Writer) error
	Backup(ctx context.Context, dir string, progress func(operate.Copied)) (backup.Manifest, error)

	Status(ctx context.Context) (operate.Status, error)
	// NotReady returns every reason why the process should get no traffic.
	NotReady() []error
}

var _ Operator = (*operate.Operator)(nil)
