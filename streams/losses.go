package streams

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
)

// Range is a range of sequences; both ends belong to it.
type Range struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// Has reports whether a sequence is in the range.
func (r Range) Has(seq uint64) bool { return r.From <= seq && seq <= r.To }

// String returns "7" or "7-12".
func (r Range) String() string {
	if r.From == r.To {
		return fmt.Sprint(r.From)
	}
	return fmt.Sprintf("%d-%d", r.From, r.To)
}

// Losses are the sequences of a stream that have neither an event nor a tombstone: the server has lost the
// blocks of the stream that they were in.
type Losses struct {
	// Events counts the lost events, without those of Accepted.
	Events uint64 `json:"events"`
	// Ranges are the ranges that the lost events are in, in order. Within one there may be erased events.
	Ranges []Range `json:"ranges"`
	// Accepted counts the lost events whose loss was accepted, see [AcceptLoss].
	Accepted uint64 `json:"accepted,omitempty"`
	// Last is the stream's last sequence at that time.
	Last uint64 `json:"last_seq"`
}

// maxRangesText is how many ranges [Losses.String] names.
const maxRangesText = 10

// String returns the number of lost events and their first ranges.
func (l Losses) String() string {
	var names []string
	for _, r := range l.Ranges[:min(len(l.Ranges), maxRangesText)] {
		names = append(names, r.String())
	}
	text := fmt.Sprintf("%d events, in %s", l.Events, strings.Join(names, ", "))
	if more := len(l.Ranges) - maxRangesText; more > 0 {
		text += fmt.Sprintf(" and %d more ranges", more)
	}
	return text
}

// maxDetails is up to how many deleted sequences each is compared with the erasures. Of more only the number
// is compared, unless that differs.
const maxDetails = 1 << 20

// Lost finds the lost events of a stream: it compares its sequences with the erasures that it has. It is one
// request if no sequence is missing. Otherwise it reads all erasures, and the list of deleted sequences.
func Lost(ctx context.Context, js jetstream.JetStream, stream string) (out Losses, err error) {
	st, err := js.Stream(ctx, stream)
	if err != nil {
		return out, fmt.Errorf("look for lost events: get stream: %w", err)
	}
	state := st.CachedInfo().State
	out.Last, out.Ranges = state.LastSeq, []Range{}
	missing := state.LastSeq - min(state.Msgs, state.LastSeq)
	if missing == 0 {
		return out, nil
	}
	var erased []uint64
	if err := eachTombstone(ctx, js, stream, func(h domain.Tombstone) { erased = append(erased, h.Seq) }); err != nil {
		return out, fmt.Errorf("look for lost events: %w", err)
	}
	slices.Sort(erased)
	erased = slices.Compact(erased)
	if missing == uint64(len(erased)) && missing > maxDetails {
		return out, nil
	}
	info, err := st.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return out, fmt.Errorf("look for lost events: list deleted sequences: %w", err)
	}
	accepted, err := acceptedLosses(ctx, js, stream, CreatedAt(info))
	if err != nil {
		return out, err
	}
	f := finder{erased: erased, accepted: accepted, out: out}
	f.out.Last = info.State.LastSeq
	first := info.State.FirstSeq
	if info.State.Msgs == 0 {
		first = info.State.LastSeq + 1
	}
	for seq := uint64(1); seq < first; seq++ {
		f.missing(seq)
	}
	for _, seq := range info.State.Deleted {
		if seq >= first {
			f.missing(seq)
		}
	}
	return f.out, nil
}

// finder collects lost sequences.
type finder struct {
	erased   []uint64 // in order
	accepted []Range
	out      Losses
	run      uint64 // the last of the missing sequences without a gap, whether erased or lost
}

// missing adds a missing sequence; the calls are in order.
func (f *finder) missing(seq uint64) {
	adjacent := seq == f.run+1 && f.run > 0
	f.run = seq
	for len(f.erased) > 0 && f.erased[0] < seq {
		f.erased = f.erased[1:]
	}
	if len(f.erased) > 0 && f.erased[0] == seq {
		return
	}
	if slices.ContainsFunc(f.accepted, func(r Range) bool { return r.Has(seq) }) {
		f.out.Accepted++
		f.run = 0 // the next range begins anew
		return
	}
	f.out.Events++
	if n := len(f.out.Ranges); n > 0 && adjacent {
		f.out.Ranges[n-1].To = seq
		return
	}
	f.out.Ranges = append(f.out.Ranges, Range{seq, seq})
}

// Acceptance is on record when somebody has accepted the loss of events.
type Acceptance struct {
	Ranges []Range `json:"ranges"`
	Events uint64  `json:"events"`
	// By is who accepted it, At when.
	By string    `json:"by"`
	At time.Time `json:"at"`
	// Created is the creation time of the stream that lost them. A stream that replaces it has lost nothing.
	Created time.Time `json:"created"`
}

// LossesOf returns the name of the stream that has what was accepted as lost of a stream of events.
func LossesOf(stream string) string { return stream + "_LOSSES" }

func lossSubject(stream string) string { return "pagestream-losses." + stream }

// AcceptLoss records that the lost events are lost for good. [Lost] does not report them any more. It
// creates the stream of acceptances if there is none. It may be repeated.
func AcceptLoss(ctx context.Context, js jetstream.JetStream, stream, by string, l Losses) error {
	if l.Events == 0 {
		return nil
	}
	st, err := js.Stream(ctx, stream)
	if err != nil {
		return fmt.Errorf("accept loss: get stream: %w", err)
	}
	info := st.CachedInfo()
	data, err := json.Marshal(Acceptance{
		Ranges: l.Ranges, Events: l.Events, By: by, At: time.Now().UTC(), Created: CreatedAt(info),
	})
	if err != nil {
		return fmt.Errorf("accept loss: encode: %w", err)
	}
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{
		Name: LossesOf(stream), Description: "Which events of the stream are accepted as lost.",
		Subjects:  []string{lossSubject(stream)},
		Retention: jetstream.LimitsPolicy, Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew,
		Replicas: info.Config.Replicas, DenyDelete: true, DenyPurge: true,
	})
	if err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return fmt.Errorf("accept loss: create stream: %w", err)
	}
	if _, err := js.Publish(ctx, lossSubject(stream), data); err != nil {
		return fmt.Errorf("accept loss: %w", err)
	}
	return nil
}

// AcceptedLosses returns the ranges of sequences that were accepted as lost. They have erased events too.
func AcceptedLosses(ctx context.Context, js jetstream.JetStream, stream string) ([]Range, error) {
	st, err := js.Stream(ctx, stream)
	if err != nil {
		return nil, fmt.Errorf("get stream: %w", err)
	}
	return acceptedLosses(ctx, js, stream, CreatedAt(st.CachedInfo()))
}

// acceptedLosses returns the ranges that were accepted as lost of the stream with that creation time.
func acceptedLosses(ctx context.Context, js jetstream.JetStream, stream string, created time.Time) ([]Range, error) {
	var out []Range
	_, err := each(ctx, js, ReadOptions{Stream: LossesOf(stream), Filters: []string{lossSubject(stream)}},
		func(m *arrival) error {
			var a Acceptance
			if err := json.Unmarshal(m.data, &a); err != nil {
				return fmt.Errorf("acceptance %d: %w", m.seq, ErrMalformed)
			}
			if a.Created.Equal(created) {
				out = append(out, a.Ranges...)
			}
			return nil
		})
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("read accepted losses: %w", err)
	}
	return out, nil
}
