package operate

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/backup"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/companies"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/erasures"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/export"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
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

// BackupRequest is a request for a backup.
type BackupRequest struct {
	// Dir is a new directory on the server's machine.
	Dir string `json:"dir"`
	// WithoutKeys and WithoutConfig leave the key ring or the configuration out.
	WithoutKeys   bool `json:"without_keys,omitempty"`
	WithoutConfig bool `json:"without_config,omitempty"`
	// EncryptTo are public keys of age, to which keys and configuration are encrypted.
	EncryptTo []string `json:"encrypt_to,omitempty"`
}

// ErasuresOf returns the name of the copy of the erasures file that is written beside a
// backup.
func ErasuresOf(dir string) string { return filepath.Clean(dir) + ".erasures" }

// Backup copies streams, secrets, keys and configuration to a new directory on the
// server's machine, and the list of erasures to a file beside it. See [backup.Take].
func (o *Operator) Backup(
	ctx context.Context, r BackupRequest, progress func(CopyProgress),
) (backup.Manifest, error) {
	beside := ErasuresOf(r.Dir)
	if _, err := os.Lstat(r.Dir); err != nil { // or Take fails
		if _, err := os.Lstat(beside); err == nil {
			return backup.Manifest{}, fmt.Errorf("%s: %w", beside, erasures.ErrExists)
		}
	}
	files := map[string]string{backupKeys: o.KeyFile, backupConfig: o.ConfigFile}
	if r.WithoutKeys {
		delete(files, backupKeys)
	}
	if r.WithoutConfig {
		delete(files, backupConfig)
	}
	outboxes, err := o.Consumers.Streams(ctx)
	if err != nil {
		return backup.Manifest{}, err
	}
	if o.Journal != nil { // the copy has all that was answered before
		if err := o.Journal.Flush(ctx); err != nil {
			return backup.Manifest{}, err
		}
	}
	// The secrets are copied after the events. Until then those that the copied events
	// refer to must be kept.
	defer o.Secrets.Hold()()
	m, err := backup.Take(ctx, backup.Options{
		Domain: o.JS.Options().Domain,
		Conn:   o.Conn, Dir: r.Dir, Before: outboxes,
		Streams: []string{
			o.Stream, streams.DecisionsOf(o.Stream), streams.ParkedOf(o.Stream), streams.LossesOf(o.Stream),
			companies.Stream, connect.BucketOf(o.Stream), tokens.Stream, history.Stream,
		},
		Files: files, EncryptTo: r.EncryptTo,
		Progress: func(stream string, n uint64) { progress(CopyProgress{stream, n}) },
	})
	if err != nil {
		return m, err
	}
	if err := o.completeErasures(ctx); err != nil {
		return m, err
	}
	return m, o.ErasuresFile.Copy(beside)
}

// completeErasures adds to the erasures file what other nodes have erased of contacts. The record of an erasure of the
// data of a person who connected pages does not have what a line needs.
func (o *Operator) completeErasures(ctx context.Context) error {
	var records []meta.Erasure
	err := o.eachErasure(ctx, "", func(e streams.Stored) error {
		records = append(records, meta.Erasure{Time: e.Time, Page: e.Page, Contact: e.Data.Erasure.Contact})
		return nil
	})
	if err != nil {
		return fmt.Errorf("read erasures: %w", err)
	}
	return o.ErasuresFile.Complete(records)
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
