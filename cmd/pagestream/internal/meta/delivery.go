package meta

import (
	"encoding/json"
	"fmt"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
)

// Messaging is an item of a delivery of messages, as Meta sends it.
type Messaging struct {
	Sender    Party `json:"sender"`
	Recipient Party `json:"recipient"`
	Timestamp int64 `json:"timestamp"` // in milliseconds
	Message   any   `json:"message"`
}

// Party is one end of a message.
type Party struct {
	ID string `json:"id"`
}

// Delivered makes the event that the delivery of item would have been, under the
// same id. It returns false where the item is not just one event.
func Delivered(object string, page domain.PageID, item Messaging, o messenger.Options) (domain.Event, bool, error) {
	body, err := json.Marshal(map[string]any{
		"object": object,
		"entry":  []any{map[string]any{"id": page, "messaging": []Messaging{item}}},
	})
	if err != nil {
		return domain.Event{}, false, fmt.Errorf("make delivery of a message: %w", err)
	}
	events := messenger.Split(body, o).Events
	if len(events) != 1 {
		return domain.Event{}, false, nil
	}
	return events[0], true, nil
}
