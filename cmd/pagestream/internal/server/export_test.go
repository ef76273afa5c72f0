package server

import (
	"context"
	"net/http"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/webhook"
	"github.com/pagestream/pagestream/domain/seal"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/streams"
)

// These methods give tests in package server_test access to the parts of a program.

// flushLimit is how long JS waits for the stream, if that takes events.
const flushLimit = 10 * time.Second

// JS returns JetStream. The stream has what was answered before the call, if JetStream takes it.
func (p *Program) JS() jetstream.JetStream {
	if p.journal != nil {
		ctx, cancel := context.WithTimeout(context.Background(), flushLimit)
		defer cancel()
		for p.journal.Refuses() == nil && ctx.Err() == nil {
			step, cancel := context.WithTimeout(ctx, time.Second)
			err := p.journal.Flush(step)
			cancel()
			if err == nil {
				break
			}
		}
	}
	return p.js
}

// Unshipped returns how many events the journal has that JetStream lacks.
func (p *Program) Unshipped() uint64 { return p.journal.Status().Waiting }

func (p *Program) Keys() *seal.KeyRing                  { return p.keys }
func (p *Program) Secrets() *connect.Bucket             { return p.secrets }
func (p *Program) Tokens() connect.Tokens               { return p.tokens }
func (p *Program) Models() operate.Models               { return p.models }
func (p *Program) Publisher() *streams.Publisher        { return p.publisher }
func (p *Program) Parking() *streams.Parking            { return p.parking }
func (p *Program) Recent() *webhook.Recent              { return &p.recent }
func (p *Program) Consumers() *consumers.Consumers      { return p.consumers }
func (p *Program) Hooks() *hooks.Hooks                  { return p.hooks }
func (p *Program) PrivateHandler() http.Handler         { return p.private }
func (p *Program) Dial(name string) (*nats.Conn, error) { return p.dial(name)() }

// RestartServer starts the embedded server again while the program runs.
func (p *Program) RestartServer(ctx context.Context) error { return p.server.Restart(ctx) }

func (p *Program) Model(name string) *projections.Runner {
	r, err := p.models.Find(name)
	if err != nil {
		panic(err)
	}
	return r
}

// Survive returns the handler that is installed around all handlers.
func (p *Program) Survive(next http.Handler) http.Handler { return p.survive(next) }
