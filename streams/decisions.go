package streams

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
)

// DecisionAction is what a decision does with dead letters.
type DecisionAction string

// The actions.
const (
	// Redrive applies dead letters again, and then the events that wait behind them.
	Redrive DecisionAction = "redrive"
	// Discard skips dead letters for good, and applies the events that wait behind them.
	Discard DecisionAction = "discard"
)

// Decision is what an operator decided about the dead letters of one projection. Decisions are
// stored in a separate stream next to the stream of events, so that a rebuild applies each one
// after the same event as the live read model did.
type Decision struct {
	// Seq is the decision's own sequence, counted from 1 over all projections.
	Seq uint64 `json:"-"`
	// Projection is the projection's name.
	Projection string `json:"projection"`
	// After is the sequence of the event after which the live read model applied the decision, and
	// AfterID is that event's id. If the stream was deleted and made again, it has another id at
	// that sequence, and the decision is ignored.
	After   uint64         `json:"after"`
	AfterID string         `json:"after_id,omitempty"`
	Action  DecisionAction `json:"action"`
	// Event is the sequence of one dead letter. If it is 0, the decision is about all dead letters
	// of Page, and if that is empty too, about all of the projection.
	Event uint64        `json:"event,omitempty"`
	Page  domain.PageID `json:"page,omitempty"`
	// Reason is the operator's reason for a Discard.
	Reason string `json:"reason,omitempty"`
	// At is when it was decided.
	At time.Time `json:"at"`
}

// DecisionsOf returns the name of the stream of decisions that belongs to a stream of events.
func DecisionsOf(stream string) string { return stream + "_DECISIONS" }

// decisionSubjects returns subjects that [All] does not match, since decisions are not events.
func decisionSubjects(stream, projection string) string {
	return "pagestream-decisions." + stream + "." + projection
}

// Decide stores a decision and returns it with its sequence and AfterID. It creates the stream of
// decisions if there is none, with as many replicas as the stream of events has.
func Decide(ctx context.Context, js jetstream.JetStream, stream string, d Decision) (Decision, error) {
	return decide(ctx, js, stream, d)
}

// DecideAfter is [Decide] for one who knows the decisions about the projection up to a sequence, as [DecisionsAfter]
// returns it. [ErrConflict] is returned when there is a later one, of another node.
func DecideAfter(ctx context.Context, js jetstream.JetStream, stream string, d Decision, last uint64) (Decision, error) {
	return decide(ctx, js, stream, d, jetstream.WithExpectLastSequencePerSubject(last))
}

func decide(
	ctx context.Context, js jetstream.JetStream, stream string, d Decision, o ...jetstream.PublishOpt,
) (Decision, error) {
	at, err := Get(ctx, js, stream, d.After)
	if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrMalformed) {
		return d, err
	}
	d.AfterID = at.ID
	data, err := json.Marshal(d)
	if err != nil {
		return d, fmt.Errorf("encode decision: %w", err)
	}
	if _, err := js.Stream(ctx, DecisionsOf(stream)); errors.Is(err, jetstream.ErrStreamNotFound) {
		events, err := js.Stream(ctx, stream)
		if err != nil {
			return d, fmt.Errorf("get stream: %w", err)
		}
		_, err = js.CreateStream(ctx, jetstream.StreamConfig{
			Name: DecisionsOf(stream), Description: "What was decided about dead letters.",
			Subjects:  []string{decisionSubjects(stream, "*")},
			Retention: jetstream.LimitsPolicy, Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew,
			Replicas: events.CachedInfo().Config.Replicas, DenyDelete: true, DenyPurge: true,
		})
		if err != nil {
			return d, fmt.Errorf("create stream of decisions: %w", err)
		}
	} else if err != nil {
		return d, fmt.Errorf("get stream of decisions: %w", err)
	}
	ack, err := js.PublishMsg(ctx, &nats.Msg{Subject: decisionSubjects(stream, d.Projection), Data: data}, o...)
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		return d, fmt.Errorf("store decision: %w", ErrConflict)
	}
	if err != nil {
		return d, fmt.Errorf("store decision: %w", err)
	}
	d.Seq = ack.Sequence
	return d, nil
}

// Decisions returns the decisions about the dead letters of a projection, in the order in which
// they were stored. It leaves out decisions from before the stream of events was deleted and made
// again. If there is no stream of decisions it returns none and no error.
func Decisions(ctx context.Context, js jetstream.JetStream, stream, projection string) ([]Decision, error) {
	list, _, err := DecisionsAfter(ctx, js, stream, projection, 0)
	return list, err
}

// DecisionsAfter returns the decisions of [Decisions] with sequences after one, and the last sequence that there is of
// the projection, also if it is of a decision that is left out. It is at least after.
func DecisionsAfter(ctx context.Context, js jetstream.JetStream, stream, projection string, after uint64) (
	out []Decision, last uint64, err error,
) {
	var list []Decision
	o := ReadOptions{
		Stream: DecisionsOf(stream), From: Following(after), Filters: []string{decisionSubjects(stream, projection)},
	}
	last = after
	_, err = each(ctx, js, o, func(m *arrival) error {
		d := Decision{Seq: m.seq}
		if err := json.Unmarshal(m.data, &d); err != nil {
			return fmt.Errorf("decision %d: %w", d.Seq, ErrMalformed)
		}
		list, last = append(list, d), d.Seq
		return nil
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, after, nil
	}
	if err != nil {
		return nil, after, fmt.Errorf("read decisions: %w", err)
	}
	for _, d := range list {
		at, err := Get(ctx, js, stream, d.After)
		switch {
		case err == nil && at.ID != d.AfterID: // made about an earlier stream of that name
		case err == nil, errors.Is(err, ErrNotFound), errors.Is(err, ErrMalformed):
			out = append(out, d)
		default:
			return nil, after, err
		}
	}
	return out, last, nil
}

// Decided calls f each time that somebody decides about the dead letters of a projection, until the context ends. The
// decision is not stored yet then, and one that is made while there is no connection is not noticed.
func Decided(ctx context.Context, js jetstream.JetStream, stream, projection string, f func()) error {
	sub, err := js.Conn().Subscribe(decisionSubjects(stream, projection), func(*nats.Msg) { f() })
	if err != nil {
		return fmt.Errorf("subscribe to decisions: %w", err)
	}
	<-ctx.Done()
	if err := sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		return fmt.Errorf("unsubscribe from decisions: %w", err)
	}
	return nil
}
