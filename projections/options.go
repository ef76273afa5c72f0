package projections

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// Defaults of [RunnerOptions].
const (
	DefaultMaxBatch = 4096
	DefaultPace     = 15 * time.Millisecond
	// DefaultMemory is how many bytes of changes a read model keeps in memory before it writes them to its file,
	// see store.Options. Those of some 40,000 events are in it.
	DefaultMemory = 32 << 20
)

// RunnerOptions configure a [Runner]. Dir, JS and Identity are required.
type RunnerOptions struct {
	// Dependencies.

	// Dir is the directory of the read models. Each projection has one file in it,
	// <name>.db.
	Dir string
	// JS is the JetStream of the stream.
	JS jetstream.JetStream
	// Stream is the stream's name, by default streams.Name.
	Stream string
	// Identity is the identity that streams.Ensure returned. A read model of
	// another identity is rebuilt.
	Identity streams.Identity
	// Dedup finds the first event with each id. An event that is not the first
	// with its id is counted and not applied. It is nil for the index itself.
	Dedup Index
	// Turns, if not nil, has room for one value and is shared by all runners of a
	// process: of those that must be built again on their own account, one is built at
	// a time. The index comes first, since the others need it.
	Turns chan struct{}
	// Complete, if not nil, waits until the stream has all that a read model may have read. A server that
	// was started again may lack some of it for a moment.
	Complete func(ctx context.Context) error
	// Refuse, if not nil, returns why no file may be replaced by one that is built from
	// the stream, such as events that the stream has lost and the file has. It is called
	// before each rebuild, but not if there is no file that can be served; and with differs
	// if the rows of a replay are not those of the live file: one of file and stream is wrong then.
	Refuse func(differs bool) error
	// RolledBack, if not nil, is called when it is certain that the stream is not the
	// one that the read model was built from any more, with the last sequence up to
	// which they are the same. It is called before the read model is built again, by
	// the goroutine of Run, and must not wait for the read model.
	RolledBack func(common uint64)
	// Renewed, if not nil, is called when the runner builds its file again on its own account, with the
	// reason: at the end and with the result, or with nil when a damaged file begins again, which
	// is not read meanwhile. It must not wait for the read model.
	Renewed func(why string, out *Rebuilt)
	// Tail may be shared by all runners of a process; nil means that this runner
	// reads the stream itself.
	Tail *streams.Tail
	// Check reads a file of the read model that may be damaged, and fails with an error
	// that wraps store.ErrCorrupt if it is. It is called before the file is opened,
	// unless its process closed it and nobody has written to it since, and when it may
	// have been damaged while it was in use. A program can do that in a process of its
	// own. The default is store.CheckFile.
	Check func(ctx context.Context, path string) error
	// Logger receives failures and rebuilds; nil discards them.
	Logger *slog.Logger

	// Tuning. The zero values suit a server.

	// Attempts is how often an event that can't be applied is tried before it is
	// parked (see [DeadLetter]). 0 means without a limit: the read model then stops
	// at this event. An [Index] must use 0, since the id of an event that it skipped
	// would be taken for a new one.
	Attempts int
	// MaxBatch is the maximum number of events in one transaction, by default 4096.
	// A larger transaction writes rows and pages that several events change only
	// once.
	MaxBatch int
	// Pace is the minimum time from one transaction to the next, by default 15 ms;
	// a negative value means none. A transaction costs some work that does not depend on its events. The
	// first event after a pause does not wait, nor does a full batch.
	Pace time.Duration
	// Store has the options of the file. Its Memory is [DefaultMemory] by default; with a negative one each
	// transaction is written to the file.
	Store store.Options

	// headEvery is the interval between two requests for the stream's last sequence.
	// Only Status.Lag depends on it, events are applied without it. Tests use a
	// shorter one.
	headEvery time.Duration
	// part is after how many changes a transaction may end in the middle of an event. It is store.PartSize by default.
	part int
}

// The file of a running read model is compared every inspectEvery with what the runner has
// written to it. Its check may take checkBase, and the time to read it at checkRate bytes a
// second.
const (
	inspectEvery = 2 * time.Second
	checkBase    = time.Minute
	checkRate    = 10 << 20
)

func (o RunnerOptions) withDefaults() RunnerOptions {
	o.Stream = cmp.Or(o.Stream, streams.Name)
	o.MaxBatch = cmp.Or(max(o.MaxBatch, 0), DefaultMaxBatch)
	o.Pace = cmp.Or(o.Pace, DefaultPace)
	o.Store.Memory = cmp.Or(o.Store.Memory, DefaultMemory)
	o.part = cmp.Or(o.part, store.PartSize)
	o.headEvery = cmp.Or(max(o.headEvery, 0), time.Second)
	if o.Check == nil {
		o.Check = store.CheckFile
	}
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	return o
}
