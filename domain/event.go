package domain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	jsonv1 "github.com/go-json-experiment/json/v1"
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
	// an encoder alone would compact it.
	Raw json.RawMessage `json:"raw,omitempty"`
}

// likeV1 has encoding/json/v2 give what encoding/json gives, in a third of its
// time; a fuzz test holds the two against each other. Errors may differ, for none
// is passed on, and so the input is read once, not twice. What is written differs
// in two spellings: bytes that are not UTF-8 become U+FFFD itself and not its
// escape, and U+2028 in Referral.Ads its escape and not itself.
var likeV1 = jsonv2.JoinOptions(
	jsonv1.DefaultOptionsV1(),
	jsonv1.ReportErrorsWithLegacySemantics(false),
	jsontext.EscapeForHTML(false),
)

// ValidJSON reports what [json.Valid] does, in a third of its time.
func ValidJSON(b []byte) bool { return jsontext.Value(b).IsValid(likeV1) }

// Encode returns the data as one JSON object with raw last and its bytes
// unchanged. Errors wrap [ErrBadData] and never quote the data: Raw is not JSON,
// or a field has what JSON can't say.
func (d Data) Encode() ([]byte, error) {
	raw := d.Raw
	d.Raw = nil
	buf := bytes.NewBuffer(make([]byte, 0, 512+len(raw)))
	if err := jsonv2.MarshalWrite(buf, &d, likeV1); err != nil {
		return nil, fmt.Errorf("encode data: %w", ErrBadData)
	}
	out := buf.Bytes()
	if len(raw) == 0 {
		return out, nil
	}
	if !ValidJSON(raw) {
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

// DecodeData reads what [Data.Encode] wrote. Unknown fields are ignored, so an
// older reader can follow a newer writer. Errors wrap [ErrBadData] and never
// quote the data.
func DecodeData(b []byte) (Data, error) {
	var d Data
	if err := jsonv2.Unmarshal(b, &d, likeV1); err != nil {
		return Data{}, fmt.Errorf("decode %d bytes: %w", len(b), ErrBadData)
	}
	return d, nil
}
