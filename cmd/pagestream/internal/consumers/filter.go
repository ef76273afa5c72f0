package consumers

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

const (
	// maxFilters bounds the filter subjects of one consumer.
	maxFilters = 10_000
	ackWait    = 30 * time.Second
	maxPending = 1000
)

// privateNouns are the event nouns that are internal to pagestream. A consumer gets such
// events only if it names their types.
var privateNouns = []string{"page", "subscription", "foreign"}

// config returns the JetStream consumer configuration for a [Spec], with the pages
// that its company has now.
func (c *Consumers) config(s Spec) (jetstream.ConsumerConfig, error) {
	pages := slices.Clone(s.Pages)
	if s.Company != "" {
		more, err := c.opts.PagesOf(s.Company)
		if err != nil {
			return jetstream.ConsumerConfig{}, fmt.Errorf("list pages of %s: %w", s.Company, err)
		}
		pages = append(pages, more...)
	}
	slices.Sort(pages)
	s.Known = slices.Compact(pages)
	filters := filters(s)
	if len(filters) > maxFilters {
		return jetstream.ConsumerConfig{}, fmt.Errorf("%d filters: %w", len(filters), ErrTooMany)
	}
	meta, err := json.Marshal(s)
	if err != nil {
		return jetstream.ConsumerConfig{}, fmt.Errorf("encode consumer: %w", err)
	}
	config := jetstream.ConsumerConfig{
		Durable: prefix + s.Name, FilterSubjects: filters, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: ackWait, MaxAckPending: maxPending, MaxDeliver: -1, Metadata: map[string]string{metaKey: string(meta)},
	}
	if s.FromNow {
		config.DeliverPolicy = jetstream.DeliverNewPolicy
	}
	return config, nil
}

// filters returns the filter subjects of a [Spec].
func filters(s Spec) (out []string) {
	pages := s.Known
	switch {
	case s.All:
		pages = []domain.PageID{""}
	case len(pages) == 0:
		// A company without pages gets no events: this subject never has any.
		return []string{streams.SubjectPrefix + "._.none.none"}
	}
	for _, page := range pages {
		if len(s.Types) > 0 {
			out = append(out, streams.Filter(page, s.Types...)...)
			continue
		}
		every := strings.TrimSuffix(streams.Filter(page)[0], ">")
		for _, noun := range publicNouns() {
			out = append(out, every+noun+".*")
		}
	}
	return out
}

// publicNouns returns the event nouns that every consumer may get.
func publicNouns() (out []string) {
	for _, t := range domain.Types() {
		if !slices.Contains(privateNouns, t.Noun()) && !slices.Contains(out, t.Noun()) {
			out = append(out, t.Noun())
		}
	}
	return out
}
