package streams_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
)

// A consumer stores the last sequence that it has handled, best in the same transaction as the result, and goes
// on with the next one. So it handles each event once and in order, even if it is restarted in between.
func ExampleFollow() {
	js, stop, err := exampleStream("hello", "is anybody there?", "never mind")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()

	position := uint64(1)             // read from the consumer's own store; 0 means the beginning
	enough := errors.New("enough")    // returned to end Follow
	run := func(until uint64) error { // what the program does each time it is started
		return streams.Follow(context.Background(), js, streams.ReadOptions{
			From:    position + 1,
			Filters: streams.Filter("", domain.MessageReceived),
		}, func(e streams.Stored) error {
			fmt.Printf("%d page %s contact %s: %s\n", e.Seq, e.Page, e.Contact, e.Data.Message.Text)
			position = e.Seq
			if e.Seq >= until {
				return enough
			}
			return nil
		})
	}
	fmt.Println("stopped:", run(2))
	fmt.Println("stopped:", run(3))

	// Output:
	// 2 page 100 contact 9: is anybody there?
	// stopped: enough
	// 3 page 100 contact 9: never mind
	// stopped: enough
}

// exampleStream starts a server with a stream of messages with these texts. A consumer of an existing server needs
// only nats.Connect and jetstream.New.
func exampleStream(texts ...string) (js jetstream.JetStream, stop func(), err error) {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "pagestream-example-*")
	if err != nil {
		return nil, nil, err
	}
	server, err := embedded.Start(ctx, embedded.Options{Dir: dir, Sync: embedded.SyncInterval})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	var nc *nats.Conn
	stop = func() {
		if nc != nil {
			nc.Close()
		}
		if err := errors.Join(server.Shutdown(ctx), os.RemoveAll(dir)); err != nil {
			fmt.Println(err)
		}
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	if nc, err = server.Connect("example"); err != nil {
		return nil, nil, err
	}
	if js, err = jetstream.New(nc); err != nil {
		return nil, nil, err
	}
	if _, err = streams.Ensure(ctx, js, streams.Spec{}); err != nil {
		return nil, nil, err
	}
	p, err := streams.NewPublisher(js, streams.PublisherOptions{})
	if err != nil {
		return nil, nil, err
	}
	events := messages("100", len(texts))
	for i, text := range texts {
		events[i].Data.Message.Text = text
	}
	_, err = p.Publish(ctx, events)
	return js, stop, errors.Join(err, p.Close(ctx))
}
