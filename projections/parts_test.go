package projections_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/comments"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// partly counts the transactions of events that forget a page, and stops in the third one.
type partly struct {
	projections.Projection
	parts         int
	stopped, goOn chan struct{}
}

func (p *partly) Apply(tx *store.Tx, e streams.Stored) error {
	if e.Type != domain.PageForgotten {
		return p.Projection.Apply(tx, e)
	}
	if p.parts++; p.parts == 3 && p.stopped != nil {
		close(p.stopped)
		<-p.goOn
	}
	return p.Projection.Apply(tx, e)
}

// TestALargePageIsForgottenInParts checks that an event with many changes takes several transactions, that a process that
// is killed between them goes on, and that the state in the end is that of one transaction.
func TestALargePageIsForgottenInParts(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	const page, rows = domain.PageID("7000"), 300
	at, all := time.UnixMilli(1_700_000_000_000).UTC(), events(200)
	for i := range rows {
		person := domain.ContactID(fmt.Sprint("person", i))
		author := domain.Person{ID: string(person)}
		all = append(all,
			domain.Event{
				ID: fmt.Sprint("m", i), Type: domain.MessageReceived, Page: page, Contact: person, Time: at,
				Data: domain.Data{Message: &domain.Message{MID: fmt.Sprint("mid", i), Text: "hello"}},
			},
			domain.Event{
				ID: fmt.Sprint("c", i), Type: domain.CommentReceived, Page: page, Contact: person, Time: at,
				Data: domain.Data{Comment: &domain.Comment{ID: fmt.Sprint("7000_", i), Post: "7000_1", From: author}},
			})
	}
	all = append(all, domain.Event{ID: "forgotten", Type: domain.PageForgotten, Page: page, Time: at})
	last := srv.store(t, all...)
	for _, model := range []func() projections.Projection{
		func() projections.Projection { return conversations.New() }, func() projections.Projection { return comments.New() },
	} {
		small := func(o *projections.RunnerOptions) {
			o.PartOf(100)
			o.Store.Memory = -1 // so that the file has each part
		}
		p := &partly{Projection: model(), stopped: make(chan struct{}), goOn: make(chan struct{})}
		run := start(t, srv.runner(t, p, small))
		select {
		case <-p.stopped:
		case <-time.After(limit):
			close(p.goOn)
			require.FailNow(t, "it is not applied in parts")
		}
		_, begun := run.Verify(t.Context(), nil)
		killed := t.TempDir()
		content, err := os.ReadFile(filepath.Join(srv.dir, p.Name()+".db"))
		close(p.goOn)
		require.NoError(t, err)
		require.ErrorIs(t, begun, projections.ErrBegun)
		require.NoError(t, os.WriteFile(filepath.Join(killed, p.Name()+".db"), content, 0o600))
		wait(t, run, last)
		assert.Greater(t, p.parts, 4)
		whole := wantOf(t, srv, model())
		assert.Equal(t, whole, digest(t, run))
		assert.True(t, rebuilt(t, run))

		again := &partly{Projection: model()}
		run = srv.runner(t, again, small, func(o *projections.RunnerOptions) { o.Dir = killed })
		assert.Equal(t, last-1, run.Status().Seq)
		assert.Empty(t, run.Status().Rebuilt)
		wait(t, start(t, run), last)
		assert.Less(t, again.parts, p.parts, "it goes on where it was")
		assert.Equal(t, whole, digest(t, run))
	}
}
