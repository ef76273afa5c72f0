package api

import (
	"context"
	"io"
	"net/http"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/backup"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/domain"
)

// CopyOperator writes events and backups.
type CopyOperator interface {
	Export(ctx context.Context, r operate.ExportRequest, w io.Writer) error
	Backup(ctx context.Context, dir string, progress func(operate.Copied)) (backup.Manifest, error)
}

func (s *Server) copyRoutes() routes {
	return routes{
		"GET /api/v1/export":  s.export,
		"POST /api/v1/backup": s.backup,
	}
}

// export serves GET /api/v1/export: events as CloudEvents, one a line, as of the
// stream's head. An answer that breaks off is asked for again with ?from= after
// its last whole line.
func (s *Server) export(w http.ResponseWriter, r *http.Request) error {
	var in operate.ExportRequest
	var err error
	if in.From, err = number(r, "from", 0); err != nil {
		return err
	}
	if in.To, err = number(r, "to", 0); err != nil {
		return err
	}
	for _, p := range r.URL.Query()["page"] {
		in.Pages = append(in.Pages, domain.PageID(p))
	}
	for _, t := range r.URL.Query()["type"] {
		if !domain.Type(t).Known() {
			return problem(http.StatusBadRequest, "type is none of ours")
		}
		in.Types = append(in.Types, domain.Type(t))
	}
	out := &slowWriter{w: w}
	if err = s.opts.Operator.Export(r.Context(), in, out); err == nil {
		if !out.begun {
			_, err = out.Write(nil)
		}
		return err
	}
	if !out.begun {
		return verbFailed("export", err)
	}
	s.opts.Logger.Warn("export broken off", "err", err)
	panic(http.ErrAbortHandler) // so that it does not look whole
}

// slowWriter gives every write its own time, so that a slow reader is served as
// long as it reads.
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
	var in struct {
		Dir string `json:"dir"`
	}
	if err := decode(w, r, &in, `{"dir": "…"}: a new directory on the server's machine`); err != nil {
		return err
	}
	if in.Dir == "" {
		return problem(http.StatusBadRequest, "dir is needed: a new directory on the server's machine")
	}
	return run(w, r, "back up", func(ctx context.Context, progress func(operate.Copied)) (backup.Manifest, error) {
		return s.opts.Operator.Backup(ctx, in.Dir, progress)
	})
}
