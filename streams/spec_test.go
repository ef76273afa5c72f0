package streams_test

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

func TestEnsureCreatesAndUpdatesTheStream(t *testing.T) {
	s := streamstest.Run(t, unsynced)
	config := func() jetstream.StreamConfig {
		t.Helper()
		st, err := s.JS.Stream(t.Context(), streams.Name)
		if err != nil {
			t.Fatal(err)
		}
		return st.CachedInfo().Config
	}
	first := s.Stream(t, streams.Spec{})
	c := config()
	if c.Discard != jetstream.DiscardNew || c.Storage != jetstream.FileStorage || c.Retention != jetstream.LimitsPolicy ||
		!c.AllowAtomicPublish || !c.AllowDirect || c.DenyDelete || c.Duplicates != streams.DefaultWindow || c.MaxAge != 0 {
		t.Errorf("stream is %+v", c)
	}
	publish(t, s, messages("100", 5))

	// Settings of the operator are kept, and those that pagestream requires are set again.
	c.Metadata["team"] = "messaging"
	c.MaxAge, c.Discard, c.AllowAtomicPublish = time.Hour, jetstream.DiscardOld, false
	if _, err := s.JS.UpdateStream(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if again := s.Stream(t, streams.Spec{Window: time.Minute, MaxBytes: 1 << 20}); again != first {
		t.Errorf("an update changed the identity from %s to %s", first, again)
	}
	c = config()
	if c.Metadata["team"] != "messaging" || c.MaxAge != 0 || c.Discard != jetstream.DiscardNew || !c.AllowAtomicPublish ||
		c.Duplicates != time.Minute || c.MaxBytes != 1<<20 {
		t.Errorf("stream is %+v", c)
	}
	if got := len(stored(t, s)); got != 5 {
		t.Errorf("%d events after the update", got)
	}

	// A restart does not change the identity, a new stream has a new one.
	s.Halt(t)
	s.Start(t)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		id, err := streams.Ensure(t.Context(), s.JS, streams.Spec{})
		if err == nil && id != first {
			t.Errorf("a restart changed the identity from %s to %s", first, id)
		}
		return err
	})
	if err := s.JS.DeleteStream(t.Context(), streams.Name); err != nil {
		t.Fatal(err)
	}
	if again := s.Stream(t, streams.Spec{}); again == first {
		t.Errorf("a new stream has the identity of the old one, %s", again)
	}
}

// TestEnsureReturnsErrMismatch checks that a stream that pagestream did not make, or that would lose events, is not
// changed.
func TestEnsureReturnsErrMismatch(t *testing.T) {
	valid := func() jetstream.StreamConfig {
		return jetstream.StreamConfig{Name: streams.Name, Subjects: []string{streams.All}}
	}
	for name, change := range map[string]func(*jetstream.StreamConfig){
		"memory":         func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage },
		"work queue":     func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy },
		"other subjects": func(c *jetstream.StreamConfig) { c.Subjects = []string{"orders.>"} },
		"more subjects":  func(c *jetstream.StreamConfig) { c.Subjects = []string{streams.All, "orders.>"} },
		"mirror": func(c *jetstream.StreamConfig) {
			c.Subjects, c.Mirror = nil, &jetstream.StreamSource{Name: "ELSEWHERE"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := streamstest.Run(t, unsynced)
			c := valid()
			change(&c)
			if _, err := s.JS.CreateStream(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if _, err := streams.Ensure(t.Context(), s.JS, streams.Spec{}); !errors.Is(err, streams.ErrMismatch) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("limit below its size", func(t *testing.T) {
		s := streamstest.Run(t, unsynced)
		s.Stream(t, streams.Spec{})
		publish(t, s, messages("100", 100))
		if _, err := streams.Ensure(t.Context(), s.JS, streams.Spec{MaxBytes: 1000}); !errors.Is(err, streams.ErrMismatch) {
			t.Errorf("got %v", err)
		}
		if got := len(stored(t, s)); got != 100 {
			t.Errorf("%d events", got)
		}
	})
}

func TestHasAndLast(t *testing.T) {
	s := streamstest.Run(t, unsynced)
	has := func(want bool, types ...domain.Type) {
		t.Helper()
		if got, err := streams.Has(t.Context(), s.JS, streams.Name, types...); err != nil || got != want {
			t.Errorf("Has(%v) = %v, %v", types, got, err)
		}
	}
	has(false, domain.MessageReceived) // there is no stream yet
	if _, err := streams.Last(t.Context(), s.JS, streams.Name); err == nil {
		t.Error("Last succeeds for a stream that does not exist")
	}
	s.Stream(t, streams.Spec{})
	has(false, domain.MessageReceived)
	publish(t, s, messages("100", 3))
	has(false, domain.PageConnected)
	has(true, domain.PageConnected, domain.MessageReceived)
	if last, err := streams.Last(t.Context(), s.JS, streams.Name); err != nil || last != 3 {
		t.Errorf("last is %d, %v", last, err)
	}
}
