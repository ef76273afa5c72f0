package meta

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
)

// Delivery is a message in the form in which Meta would deliver it to a page.
type Delivery struct {
	Object   string // "page" or "instagram"
	Page     domain.PageID
	From, To string
	At       time.Time
	Message  any
}

// Event returns the event that the webhook would have made of the delivery, with
// the same id. It returns false if the delivery does not make exactly one event.
func (d Delivery) Event(o messenger.Options) (domain.Event, bool, error) {
	type object map[string]any
	item := object{
		"sender": object{"id": d.From}, "recipient": object{"id": d.To},
		"timestamp": d.At.UnixMilli(), "message": d.Message,
	}
	body, err := json.Marshal(object{
		"object": d.Object, "entry": []object{{"id": d.Page, "messaging": []object{item}}},
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
