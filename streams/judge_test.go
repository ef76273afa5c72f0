package streams_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// judge answers with one standing for each app, and records the sequence it was asked after.
type judge struct {
	standings map[string]streams.Standing
	err       error
	after     uint64
}

func (j *judge) Judge(_ context.Context, claims []streams.Claim, after uint64) ([]streams.Standing, error) {
	j.after = after
	out := make([]streams.Standing, len(claims))
	for i, c := range claims {
		out[i] = j.standings[c.App]
	}
	return out, j.err
}

func TestStandingsDecideIDsAndTypes(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	j := &judge{standings: map[string]streams.Standing{"1": streams.Own, "2": streams.Foreign, "3": streams.Unowned, "4": streams.Released}}
	p := publisher(t, s, streams.PublisherOptions{Judge: j})
	deliver := func(app, source string, event ...int) streams.Receipt {
		t.Helper()
		e := messages("100", 2)[append(event, 0)[0]]
		e.Data.AppID, e.Data.Source = app, source
		r, err := p.Publish(t.Context(), []domain.Event{e})
		require.NoError(t, err)
		return r[0]
	}
	stored := func(r streams.Receipt) streams.Stored {
		t.Helper()
		e, err := streams.Get(t.Context(), s.JS, streams.Name, r.Seq)
		require.NoError(t, err)
		return e
	}
	const id = "page:100:msg:m_100_0"

	foreign := deliver("2", "webhook")
	require.True(t, foreign.Foreign)
	e := stored(foreign)
	require.Equal(t, domain.ForeignReceived, e.Type)
	require.Equal(t, "foreign:2:"+id, e.ID)
	require.Equal(t, domain.MessageReceived, e.Original)
	require.Equal(t, id, e.OriginalID)
	require.Equal(t, "m_100_0", e.Data.Message.MID)
	require.Equal(t, foreign.Seq, deliver("2", "webhook").Seq, "it is stored once")

	unowned := deliver("3", "webhook")
	require.Equal(t, "app:3:"+id, stored(unowned).ID)
	released := deliver("4", "webhook")
	require.Equal(t, "app:4:"+id, stored(released).ID)
	own := deliver("1", "webhook")
	require.Equal(t, id, stored(own).ID)
	require.Equal(t, streams.NotDuplicate, own.Duplicate)
	for app, want := range map[string]uint64{"1": own.Seq, "2": foreign.Seq, "3": unowned.Seq, "4": released.Seq} {
		require.Equal(t, want, deliver(app, "webhook").Seq, "app %s again", app)
	}
	before := deliver("3", "webhook", 1)
	j.standings["3"], j.standings["5"] = streams.Own, streams.Released
	require.Equal(t, before.Seq, deliver("3", "webhook", 1).Seq, "the later owner has the event of before")
	require.Equal(t, own.Seq, deliver("5", "webhook").Seq, "the former owner has the event of its time")
	require.Equal(t, own.Seq, deliver("2", "backfill").Seq, "what pagestream fetched itself is not judged")
}

func TestJudgeKnowsTheEventsThatConnectPages(t *testing.T) {
	t.Parallel()
	s := streamstest.Run(t, unsynced)
	s.Stream(t, streams.Spec{})
	j := &judge{}
	p := publisher(t, s, streams.PublisherOptions{Judge: j})
	connected, err := p.Append(t.Context(), domain.Event{ID: "c", Type: domain.PageConnected, Page: "100"}, 0)
	require.NoError(t, err)
	e := messages("100", 2)
	e[0].Data.Source, e[1].Data.Source = "webhook", "webhook"
	_, err = p.Publish(t.Context(), e[:1])
	require.NoError(t, err)
	require.Equal(t, connected.Seq, j.after)

	other := publisher(t, s, streams.PublisherOptions{Judge: j})
	j.after = 0
	_, err = other.Publish(t.Context(), e[:1])
	require.NoError(t, err)
	require.Equal(t, connected.Seq, j.after, "a new publisher reads it from the stream")

	j.err = errors.New("behind")
	_, err = p.Publish(t.Context(), e[1:])
	require.ErrorIs(t, err, streams.ErrUnavailable)
}
