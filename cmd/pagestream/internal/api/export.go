package api

import (
	"context"
	"io"
	"net/http"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/backup"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
)

// CopyOperator writes exports and backups.
type CopyOperator interface {
	Export(ctx context.Context, r operate.ExportRequest, w io.Writer) error
	Backup(ctx context.Context, r operate.BackupRequest, progress func(operate.CopyProgress)) (backup.Manifest, error)
}

func (s *Server) copyRoutes() routes {
	return routes{
		"GET /api/v1/export": {
			serve: s.export, params: params{"from", "page" + many, "to", "type" + many}, allow: toReaders,
		},
		"POST /api/v1/backup": {serve: s.backup, body: true, verb: "backup"},
	}
}

// export serves GET /api/v1/export: events up to the stream's head as CloudEvents, one
// per line. If a response is cut off, the client resumes with ?from= after its last
// complete line.
func (s *Server) export(w http.ResponseWriter, r *http.Request) error {
	var in operate.ExportRequest
	var err error
	if in.From, err = number(r, "from", 0); err != nil {
		return err
	}
	if in.To, err = number(r, "to", 0); err != nil {
		return err
	}
	if in.Pages, in.Types, err = s.selection(r); err != nil {
		return err
	}
	out := &slowWriter{w: w}
	if err = s.opts.Operator.Export(r.Context(), in, out); err == nil {
		if !out.begun {
			_, err = out.Write(nil)
		}
		return err
	}
	if !out.begun {
		return verbProblem("export", err)
	}
	s.opts.Logger.Warn("export aborted", "err", err)
	panic(http.ErrAbortHandler) // so that the client sees that the response is incomplete
}

// slowWriter extends the deadline at every write, so that a slow client is served as
// long as it keeps reading.
type slowWriter struct {
	w     http.ResponseWriter
	begun bool
}

func (p *slowWriter) Write(b []byte) (int, error) {
	if !p.begun {
		p.w.Header().Set("Content-Type", "application/x-ndjson")
		p.begun = true
	}
	extend(p.w)
	return p.w.Write(b)
}

// backup serves POST /api/v1/backup.
func (s *Server) backup(w http.ResponseWriter, r *http.Request) error {
	var in operate.BackupRequest
	if err := decode(w, r, &in, `{"dir": "…"}: a new directory on the server's machine`); err != nil {
		return err
	}
	if in.Dir == "" {
		return problem(http.StatusBadRequest, "dir is needed: a new directory on the server's machine")
	}
	history.From(r.Context()).OnText("dir", in.Dir)
	return run(w, r, "back up", func(ctx context.Context, progress func(operate.CopyProgress)) (backup.Manifest, error) {
		return s.opts.Operator.Backup(ctx, in, progress)
	})
}
