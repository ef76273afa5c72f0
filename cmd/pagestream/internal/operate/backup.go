package operate

import (
	"context"
	"io"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/backup"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/companies"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/export"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/tokens"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// Roles of the files in a backup.
const (
	backupKeys   = "keys"
	backupConfig = "config"
)

// CopyProgress is the progress of a backup or a restore: the bytes copied of the
// current stream.
type CopyProgress struct {
	Stream string `json:"stream"`
	Bytes  uint64 `json:"bytes"`
}

// Backup copies streams, secrets, keys and configuration to a new directory on the
// server's machine. See [backup.Take].
func (o *Operator) Backup(ctx context.Context, dir string, progress func(CopyProgress)) (backup.Manifest, error) {
	outboxes, err := o.Consumers.Streams(ctx)
	if err != nil {
		return backup.Manifest{}, err
	}
	// The secrets are copied after the events. Until then those that the copied events
	// refer to must be kept.
	defer o.Secrets.Hold()()
	return backup.Take(ctx, backup.Options{
		Conn: o.Conn, Dir: dir, Before: outboxes,
		Streams: []string{
			o.Stream, streams.DecisionsOf(o.Stream), streams.ParkedOf(o.Stream), companies.Stream, connect.BucketOf(o.Stream),
			tokens.Stream, history.Stream,
		},
		Files:    map[string]string{backupKeys: o.KeyFile, backupConfig: o.ConfigFile},
		Progress: func(stream string, n uint64) { progress(CopyProgress{stream, n}) },
	})
}

// ExportRequest selects the events of an export; 0 and nil mean all.
type ExportRequest struct {
	From, To uint64
	Pages    []domain.PageID
	Types    []domain.Type
}

// Export writes events up to the stream's head as CloudEvents, one per line.
func (o *Operator) Export(ctx context.Context, r ExportRequest, w io.Writer) error {
	_, err := export.Write(ctx, export.Options{
		JS: o.JS, Stream: o.Stream, From: r.From, To: r.To, Pages: r.Pages, Types: r.Types,
	}, w)
	return err
}
