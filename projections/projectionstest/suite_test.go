package projectionstest_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

type applyFunc func(tx *store.Tx, e streams.Stored) error

func (applyFunc) Name() string                                 { return "sample" }
func (applyFunc) Version() int                                 { return 1 }
func (f applyFunc) Apply(tx *store.Tx, e streams.Stored) error { return f(tx, e) }

func put(tx *store.Tx, key []byte, n uint64) error { return tx.Bucket("b").Put(key, store.Uint64(n)) }

// samples are one correct projection, and one for each kind of error that the suite must detect.
var samples = map[string]func() projections.Projection{
	"correct": func() projections.Projection {
		return applyFunc(func(tx *store.Tx, e streams.Stored) error { return put(tx, store.Key(e.Page), e.Seq) })
	},
	"random": func() projections.Projection {
		return applyFunc(func(tx *store.Tx, _ streams.Stored) error { return put(tx, []byte("k"), rand.Uint64()) })
	},
	"keeps state": func() projections.Projection {
		var n uint64
		return applyFunc(func(tx *store.Tx, _ streams.Stored) error { n++; return put(tx, []byte("k"), n) })
	},
	"counts transactions": func() projections.Projection {
		var last *store.Tx
		return applyFunc(func(tx *store.Tx, _ streams.Stored) error {
			if tx == last {
				return nil
			}
			last = tx
			return put(tx, []byte("k"), store.ToUint64(tx.Bucket("b").Get([]byte("k")))+1)
		})
	},
	"needs a message": func() projections.Projection {
		return applyFunc(func(tx *store.Tx, e streams.Stored) error {
			if e.Type != domain.MessageReceived {
				return nil
			}
			return put(tx, store.Key(e.Data.Message.MID), e.Seq)
		})
	},
	"needs a page": func() projections.Projection {
		return applyFunc(func(tx *store.Tx, e streams.Stored) error {
			if e.Page == "" {
				return errors.New("no page")
			}
			return put(tx, []byte("k"), e.Seq)
		})
	},
}

const sampleEnv = "PAGESTREAM_PROJECTIONSTEST_SAMPLE"

// TestSample is run by TestSuiteDetectsWrongProjections, in a separate process.
func TestSample(t *testing.T) {
	name := os.Getenv(sampleEnv)
	if name == "" {
		name = "correct"
	}
	projectionstest.Run(t, samples[name], projectionstest.Events(2, 100))
}

func TestSuiteDetectsWrongProjections(t *testing.T) {
	for name := range samples {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0],
				"-test.run=^TestSample$", "-test.short", "-rapid.nofailfile", "-rapid.checks=20")
			cmd.Env = append(os.Environ(), sampleEnv+"="+name)
			out, err := cmd.CombinedOutput()
			require.Equal(t, name == "correct", err == nil)
			if err != nil {
				require.Contains(t, string(out), "FAIL: TestSample/")
			}
		})
	}
}

func TestEventsAreRealistic(t *testing.T) {
	events := projectionstest.Events(1, 5000)
	require.Equal(t, projectionstest.Events(1, 5000), events, "the same seed gave different events")
	types := make(map[domain.Type]int)
	ids := make(map[string]int)
	late, standby := 0, 0
	for i, e := range events {
		types[e.Type]++
		ids[e.ID]++
		if i > 0 && e.Time.Before(events[i-1].Time) {
			late++
		}
		if e.Standby {
			standby++
		}
		m, err := streams.Encode(e.Event)
		require.NoError(t, err, "event %d", e.Seq)
		require.Equal(t, uint64(i+1), e.Seq)
		back, err := streams.Decode(m.Subject, m.Header, m.Data, e.Seq, e.At)
		require.NoError(t, err, "event %d changes when it is encoded and decoded", e.Seq)
		require.Equal(t, e, back, "event %d changes when it is encoded and decoded", e.Seq)
	}
	for _, want := range domain.Types() {
		if types[want] == 0 {
			require.Equal(t, domain.ThreadRolesChanged, want, "there is no event of type %s", want)
		}
	}
	dups := len(events) - len(ids)
	require.GreaterOrEqual(t, dups, 50)
	require.GreaterOrEqual(t, late, 100)
	require.GreaterOrEqual(t, standby, 50)
}
