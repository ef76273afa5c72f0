package operate

import (
	"context"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/apps"
)

// SetUpApp sets the callback URL, the verify token and the fields of an app at Meta; see
// [apps.Setup.Run].
func (o *Operator) SetUpApp(ctx context.Context, in apps.Request) (apps.Result, error) {
	return o.AppSetup.Run(ctx, in)
}
