package api

import (
	"context"
	"net/http"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/apps"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
)

// AppOperator sets up apps at Meta.
type AppOperator interface {
	SetUpApp(ctx context.Context, in apps.Request) (apps.Result, error)
}

func (s *Server) appRoutes() routes {
	return routes{"POST /api/v1/apps/setup": {serve: s.setUpApp, body: true, verb: "apps_setup"}}
}

// AppSetupRequest is a request to set up an app at Meta.
type AppSetupRequest = apps.Request

func (s *Server) setUpApp(w http.ResponseWriter, r *http.Request) error {
	var in AppSetupRequest
	if err := decode(w, r, &in, `{} and optionally app, dry_run, instagram, replace`); err != nil {
		return err
	}
	action := history.From(r.Context())
	if in.App != "" {
		action.On("app", in.App)
	}
	if in.DryRun {
		action.On("dry_run", "true")
	}
	if in.Replace {
		action.On("replace", "true")
	}
	extend(w)
	out, err := s.opts.Operator.SetUpApp(r.Context(), in)
	return writeResult(w, "set up app", http.StatusOK, out, err)
}
