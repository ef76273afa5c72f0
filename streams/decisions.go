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

// DecisionAction is what becomes of dead letters.
type DecisionAction string

// The actions.
const (
	// Redrive tries dead letters again, and what waits behind them.
	Redrive DecisionAction = "redrive"
	// Discard gives dead letters up, and goes on with what waits behind them.
	Discard DecisionAction = "discard"
)

// Decision is what an operator has decided about the dead letters of one
// projection. Decisions are in a stream of their own beside the events, so that
// a rebuild takes each at the same place as the live read model did.
type Decision struct {
	// Seq is the decision's own sequence, counted from 1 over all projections.
	Seq        uint64 `json:"-"`
	Projection string `json:"projection"`
	// After is the event after which the live read model took it, AfterID that
	// event's id, by which a decision about another stream is known.
	After   uint64         `json:"after"`
	AfterID string         `json:"after_id,omitempty"`
	Action  DecisionAction `json:"action"`
	// Event, or else Page, says which dead letters; without both it is all.
	Event uint64        `json:"event,omitempty"`
	Page  domain.PageID `json:"page,omitempty"`
	// Reason is the operator's, for a Discard.
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at"`
}

// DecisionsOf returns the name of the stream of decisions beside a stream of
// events.
func DecisionsOf(stream string) string { return stream + "_DECISIONS" }

// decisionSubjects are not below [All]: they are no events.
func decisionSubjects(stream, projection string) string {
	return "pagestream-decisions." + stream + "." + projection
}

// Decide stores a decision and returns it with its sequence and AfterID. It makes the stream
// of decisions if there is none, with as many replicas as the events have.
func Decide(ctx context.Context, js jetstream.JetStream, stream string, d Decision) (Decision, error) {
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
			return d, fmt.Errorf("ask stream: %w", err)
		}
		_, err = js.CreateStream(ctx, jetstream.StreamConfig{
			Name: DecisionsOf(stream), Description: "What was decided about dead letters.",
			Subjects: []string{decisionSubjects(stream, "*")}, Retention: jetstream.LimitsPolicy, Storage: jetstream.FileStorage,
			Discard: jetstream.DiscardNew, Replicas: events.CachedInfo().Config.Replicas, DenyDelete: true, DenyPurge: true,
		})
		if err != nil {
			return d, fmt.Errorf("make stream of decisions: %w", err)
		}
	} else if err != nil {
		return d, fmt.Errorf("ask stream of decisions: %w", err)
	}
	ack, err := js.PublishMsg(ctx, &nats.Msg{Subject: decisionSubjects(stream, d.Projection), Data: data})
	if err != nil {
		return d, fmt.Errorf("store decision: %w", err)
	}
	d.Seq = ack.Sequence
	return d, nil
}

// Decisions returns what was decided about the dead letters of a projection, in
// order. A decision from before the stream of events was deleted and made again is
// left out.
func Decisions(ctx context.Context, js jetstream.JetStream, stream, projection string) ([]Decision, error) {
	var list []Decision
	o := ReadOptions{Stream: DecisionsOf(stream), Filters: []string{decisionSubjects(stream, projection)}}
	_, err := each(ctx, js, o, func(m arrival) error {
		d := Decision{Seq: m.seq()}
		if err := json.Unmarshal(m.msg.Data(), &d); err != nil {
			return fmt.Errorf("decision %d: %w", d.Seq, ErrMalformed)
		}
		list = append(list, d)
		return nil
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read decisions: %w", err)
	}
	var out []Decision
	for _, d := range list {
		at, err := Get(ctx, js, stream, d.After)
		switch {
		case err == nil && at.ID != d.AfterID: // of another stream
		case err == nil, errors.Is(err, ErrNotFound), errors.Is(err, ErrMalformed):
			out = append(out, d)
		default:
			return nil, err
		}
	}
	return out, nil
}
