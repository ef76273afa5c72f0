package domain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// ErrBadData is returned when an event's data is not the JSON its type calls for.
var ErrBadData = errors.New("event data is not readable")

// Event is one fact: something that Meta told us about a page, or that we
// decided about one. It is immutable once stored.
//
// ID is the dedup id: two events with one ID are one fact, whatever else in
// them differs. Time is when the fact happened by Meta's clock, or by ours for
// our own decisions; it does not order events, the stream's sequence does.
type Event struct {
	ID      string
	Type    Type
	Page    PageID
	Contact ContactID
	Time    time.Time
	// Standby marks an item from entry.standby: another app owns the thread.
	Standby bool
	// TraceParent is the W3C trace context of the delivery, if it had one.
	TraceParent string
	Data        Data
}

// Data is what an event says, typed fields first and the item's own bytes
// last. At most one of the pointer fields is set, the one that the event's
// type calls for; all are nil for a kind that has no typed form, and then Raw
// has everything.
//
// Text in it is personal: it must not reach a log or an error.
type Data struct {
	// App names the configured Meta app whose webhook received the item.
	App string `json:"app,omitempty"`
	// Object is the delivery's object, "page" or "instagram".
	Object string `json:"object,omitempty"`
	// Channel is the array of the entry that held the item: "messaging",
	// "standby", "changes" or "changed_fields".
	Channel string `json:"channel,omitempty"`
	// Kind is the item's own key or the change's field: "message", "feed".
	Kind string `json:"kind,omitempty"`
	// Source is "webhook", or "backfill" for what the Conversations API gave.
	Source string `json:"source,omitempty"`
	// Sender and Recipient are the item's ids as it had them.
	Sender    string `json:"sender,omitempty"`
	Recipient string `json:"recipient,omitempty"`
	// EntryTime is entry.time in Unix milliseconds: when Meta sent the
	// delivery. It differs between two deliveries of one fact.
	EntryTime int64 `json:"entry_time,omitempty"`
	// Test marks the developer dashboard's Test button. Never projected into
	// a conversation.
	Test bool `json:"test,omitempty"`

	Message      *Message      `json:"message,omitempty"`
	Edit         *Edit         `json:"edit,omitempty"`
	Delivery     *Delivery     `json:"delivery,omitempty"`
	Read         *Read         `json:"read,omitempty"`
	Reaction     *Reaction     `json:"reaction,omitempty"`
	Postback     *Postback     `json:"postback,omitempty"`
	Referral     *Referral     `json:"referral,omitempty"`
	Optin        *Optin        `json:"optin,omitempty"`
	AccountLink  *AccountLink  `json:"account_link,omitempty"`
	Thread       *Thread       `json:"thread,omitempty"`
	Policy       *Policy       `json:"policy,omitempty"`
	Unreadable   *Unreadable   `json:"unreadable,omitempty"`
	Connection   *Connection   `json:"connection,omitempty"`
	Subscription *Subscription `json:"subscription,omitempty"`
	Profile      *Profile      `json:"profile,omitempty"`
	Erasure      *Erasure      `json:"erasure,omitempty"`

	// Raw is the item byte for byte as it came. [Data.Encode] keeps it so:
	// encoding/json alone would compact and escape it.
	Raw json.RawMessage `json:"raw,omitempty"`
}

// Encode returns the data as one JSON object with raw last and its bytes
// unchanged. It fails with [ErrBadData] when Raw is not JSON.
func (d Data) Encode() ([]byte, error) {
	raw := d.Raw
	d.Raw = nil
	out, err := d.typed(len(raw))
	if err != nil || len(raw) == 0 {
		return out, err
	}
	if !json.Valid(raw) {
		return nil, fmt.Errorf("encode raw item: %w", ErrBadData)
	}
	out = out[:len(out)-1] // the closing brace
	if len(out) > 1 {
		out = append(out, ',')
	}
	out = append(out, `"raw":`...)
	out = append(out, raw...)
	return append(out, '}'), nil
}

// typed encodes the typed fields, and leaves room for so many bytes behind them.
func (d *Data) typed(room int) ([]byte, error) {
	if out, ok := appendPlain(make([]byte, 0, 512+room), d); ok {
		return out, nil
	}
	var buf bytes.Buffer
	buf.Grow(512 + room)
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(d); err != nil {
		return nil, fmt.Errorf("encode data: %w", err)
	}
	return bytes.TrimRight(buf.Bytes(), "\n"), nil
}

// DecodeData reads what [Data.Encode] wrote. Unknown fields are ignored, so an
// older reader can follow a newer writer. Errors wrap [ErrBadData] and never
// quote the data.
func DecodeData(b []byte) (Data, error) {
	if d, ok := decodePlain(b); ok {
		return d, nil
	}
	var d Data
	if err := json.Unmarshal(b, &d); err != nil {
		return Data{}, fmt.Errorf("decode %d bytes: %w", len(b), ErrBadData)
	}
	return d, nil
}
