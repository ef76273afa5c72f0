package erase

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams"
)

// adminPartSize bounds the tombstones in one event: those of connections have some 600
// bytes each.
const adminPartSize = 500

// Secrets erases the stored tokens of pages.
type Secrets interface {
	// Drop erases one secret. It is no error if there is none.
	Drop(ctx context.Context, page domain.PageID, ref string) error
}

// AdminsOptions configure [Admins]. All but Recorded, Kept and Logger are required.
type AdminsOptions struct {
	JS jetstream.JetStream
	// Journal is nil if the stream has none.
	Journal Journal
	// Connect returns a connection that only the reactor uses.
	Connect   func() (*nats.Conn, error)
	Publisher streams.Storer
	Pages     projections.Reader
	Secrets   Secrets
	// Recorded, if not nil, is called before an erasure is recorded in the stream. If it
	// fails, nothing is erased.
	Recorded func(meta.Erasure) error
	Kept
	Logger *slog.Logger
}

// Admins erases the data of persons who connected pages: their ids in events and read
// models, and the tokens that they granted. Make one with [NewAdmins]; it is safe for
// concurrent use.
type Admins struct{ opts AdminsOptions }

// NewAdmins returns an eraser of the data of persons who connected pages.
func NewAdmins(o AdminsOptions) *Admins {
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	return &Admins{o}
}

// Erase deletes the events that name the person as the one who granted a page's token,
// if the grant was made before the time of the request, and erases the tokens. It
// leaves tombstones that have everything else of the connections. Their connections must
// have ended before. When it returns without an error, the events are deleted, and no
// file of this process has the id of the person.
//
// It is idempotent, and may be repeated after an error.
func (x *Admins) Erase(ctx context.Context, a meta.AdminErasure) (meta.AdminErased, error) {
	if x.opts.Journal != nil {
		if err := x.opts.Journal.Flush(ctx); err != nil {
			return meta.AdminErased{}, err
		}
	}
	found, err := x.find(ctx, a)
	if err != nil {
		return meta.AdminErased{}, err
	}
	if len(found) > 0 && x.opts.Recorded != nil {
		if err := x.opts.Recorded(meta.Erasure{Time: time.Now().UTC(), Admin: &a}); err != nil {
			return meta.AdminErased{}, err
		}
	}
	last := uint64(0)
	for _, page := range slices.Sorted(maps.Keys(found)) {
		seq, err := x.record(ctx, a.Request, page, found[page])
		if err != nil {
			return meta.AdminErased{}, err
		}
		last = max(last, seq)
	}
	if err := x.opts.Pages.WaitFor(ctx, last); err != nil {
		return meta.AdminErased{}, err
	}
	// This also finishes what an earlier call has recorded.
	erased := newListed()
	err = x.each(ctx, a.Request, func(e streams.Stored) error {
		erased.add(e)
		return x.Handle(ctx, e)
	})
	if err != nil {
		return meta.AdminErased{}, err
	}
	if len(erased.seqs) > 0 {
		if _, _, err := x.opts.clean(ctx, x.opts.JS, erased, "", ""); err != nil {
			return meta.AdminErased{}, fmt.Errorf("%w: %w", ErrLeft, err)
		}
	}
	return x.Done(ctx, a.Request)
}

// grant is the uninterrupted time in which a connection has one person's grant.
type grant struct {
	connection string
	hash       string
	since      time.Time
}

// find returns the events to delete, by page. All events of a grant are among them, or
// none: so the model of pages knows when a grant began, whatever was deleted.
func (x *Admins) find(ctx context.Context, a meta.AdminErasure) (map[domain.PageID][]streams.Stored, error) {
	found, current := map[domain.PageID][]streams.Stored{}, map[domain.PageID]grant{}
	_, err := streams.Read(ctx, x.opts.JS, streams.ReadOptions{
		Stream:    streams.Name,
		Filters:   streams.Filter("", domain.PageConnected, domain.PageTokenRefreshed, domain.PageDisconnected),
		Malformed: func(uint64, error) error { return nil },
	}, func(e streams.Stored) error {
		c := e.Data.Connection
		if e.Type == domain.PageDisconnected {
			delete(current, e.Page)
			return nil
		}
		if c == nil || c.Admin == "" {
			if e.Type == domain.PageConnected {
				delete(current, e.Page)
			}
			return nil
		}
		g, was := grant{hash: domain.AdminHash(cmp.Or(c.App, e.Data.App), c.Admin)}, current[e.Page]
		g.connection, g.since = c.ConnectionID, projections.When(e)
		if g.connection == "" {
			g.connection = was.connection
		}
		if was.connection == g.connection && was.hash == g.hash {
			g.since = was.since
		}
		current[e.Page] = g
		if g.hash == a.Hash && g.since.Before(a.Before) {
			found[e.Page] = append(found[e.Page], e)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find events of the person: %w", err)
	}
	return found, nil
}

// record stores the erasure of a page's events, and returns the sequence of the last
// event that records it.
func (x *Admins) record(
	ctx context.Context, request string, page domain.PageID, list []streams.Stored,
) (uint64, error) {
	parts := slices.Collect(slices.Chunk(list, adminPartSize))
	events := make([]domain.Event, len(parts))
	for i, part := range parts {
		d := &domain.Erasure{Request: request, Part: i + 1, Parts: len(parts)}
		for _, e := range part {
			d.Events = append(d.Events, domain.NewTombstone(e.Event, e.Seq, e.At))
		}
		key := request + ":" + strconv.FormatUint(part[0].Seq, 10) + ":" + strconv.FormatUint(part[len(part)-1].Seq, 10)
		events[i] = domain.Event{
			ID:   domain.DedupID("pagestream", page, string(domain.PageAdminErased), key),
			Type: domain.PageAdminErased, Page: page, Time: time.Now().UTC(), Data: domain.Data{Erasure: d},
		}
	}
	receipts, err := x.opts.Publisher.Publish(ctx, events)
	if err != nil {
		return 0, fmt.Errorf("record erasure: %w", err)
	}
	return receipts[len(parts)-1].Seq, nil
}

// each calls f with the records of a request.
func (x *Admins) each(ctx context.Context, request string, f func(streams.Stored) error) error {
	_, err := streams.Read(ctx, x.opts.JS, streams.ReadOptions{
		Stream: streams.Name, Filters: streams.Filter("", domain.PageAdminErased),
		Malformed: func(uint64, error) error { return nil },
	}, func(e streams.Stored) error {
		if e.Data.Erasure == nil || e.Data.Erasure.Request != request {
			return nil
		}
		return f(e)
	})
	if err != nil {
		return fmt.Errorf("read erasures: %w", err)
	}
	return nil
}

// Done returns what was done for a request, as it is recorded in the stream. It is the
// zero value if nothing was found to erase.
func (x *Admins) Done(ctx context.Context, request string) (out meta.AdminErased, err error) {
	get, err := streams.Getter(ctx, x.opts.JS, streams.Name)
	if err != nil {
		return out, err
	}
	of, secrets := map[domain.PageID]bool{}, map[string]bool{}
	err = x.each(ctx, request, func(e streams.Stored) error {
		of[e.Page], out.At = true, e.At
		for _, h := range e.Data.Erasure.Events {
			out.Events++
			if h.Connection != nil && h.Connection.Secret != "" {
				secrets[h.Connection.Secret] = true
			}
			s, err := get(ctx, h.Seq)
			switch {
			case errors.Is(err, streams.ErrNotFound):
			case err != nil:
				return fmt.Errorf("read event: %w", err)
			case isListed(s, h):
				out.Open++
			}
		}
		return nil
	})
	out.Pages, out.Secrets = len(of), len(secrets)
	return out, err
}

// Run carries out recorded erasures until the context ends, and then returns nil. If
// several nodes run it, they share the work.
func (x *Admins) Run(ctx context.Context) error {
	return streams.NewReactor(streams.ReactorOptions{
		Connect: x.opts.Connect, Domain: x.opts.JS.Options().Domain, Stream: streams.Name,
		Filter: streams.Filter("", domain.PageAdminErased)[0], Durable: "erase_admins",
		Handle: streams.OnEvent(x.Handle), Timeout: deleteTimeout, MaxDeliver: maxDeliver,
		Parking: x.opts.Parking,
		GaveUp: func(m *message.Message, err error) {
			x.opts.Logger.Error("events with the id of a person who connected a page can't be deleted",
				"seq", m.Metadata[streams.MetaSeq], "err", err)
		},
		Logger: x.opts.Logger,
	}).Run(ctx)
}

// Handle deletes the events that an erasure lists, and erases the tokens that they refer
// to. It is idempotent. An event is deleted only if it is the one that was listed.
func (x *Admins) Handle(ctx context.Context, e streams.Stored) error {
	d := e.Data.Erasure
	if e.Type != domain.PageAdminErased || d == nil {
		return nil
	}
	if err := x.opts.Pages.WaitFor(ctx, e.Seq); err != nil {
		return err
	}
	current, err := pages.Credentials(x.opts.Pages, e.Page)
	if err != nil && !errors.Is(err, pages.ErrNoCredentials) {
		return fmt.Errorf("read credentials: %w", err)
	}
	seqs, tombstones := make([]uint64, 0, len(d.Events)), map[uint64]domain.Tombstone{}
	for _, h := range d.Events {
		if h.Seq >= e.Seq {
			continue
		}
		seqs, tombstones[h.Seq] = append(seqs, h.Seq), h
		// A page that somebody else has connected since keeps what it needs.
		if h.Connection != nil && h.Connection.Secret != "" && h.Connection.Secret != current.Secret {
			if err := x.opts.Secrets.Drop(ctx, e.Page, h.Connection.Secret); err != nil {
				return err
			}
		}
	}
	n, err := eraseEvents(ctx, x.opts.JS, x.opts.Journal, seqs, func(s streams.Stored) bool {
		ok := s.Page == e.Page && isListed(s, tombstones[s.Seq])
		if !ok {
			x.opts.Logger.Error("erasure lists another event; it is not deleted", "seq", s.Seq, "erasure", e.Seq)
		}
		return ok
	})
	if n > 0 {
		x.opts.Logger.Info("events with the id of a person who connected a page deleted",
			"page", e.Page, "events", n, "seq", e.Seq)
	}
	return err
}

// isListed reports whether the event is the one that the tombstone is of, and names a
// person who granted a page's token.
func isListed(s streams.Stored, h domain.Tombstone) bool {
	return s.Type == h.Type && s.Data.Connection != nil && s.Data.Connection.Admin != "" &&
		hex.EncodeToString(domain.IDKey(s.ID)) == h.ID
}
