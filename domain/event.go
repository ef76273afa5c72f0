package domain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"
	"unicode/utf8"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	jsonv1 "github.com/go-json-experiment/json/v1"
)

// ErrBadData is returned when an event's data or its raw item is not valid JSON.
var ErrBadData = errors.New("event data is not readable")

// The values of [Data].Source of what came from Meta: delivered by a webhook, read with the Conversations API to fill a gap,
// and sent through our API.
const (
	SourceWebhook  = "webhook"
	SourceBackfill = "backfill"
	SourceSend     = "send"
)

// RedeliveryWindow is how long Meta repeats a delivery that was not answered 200.
// https://developers.facebook.com/docs/graph-api/webhooks/getting-started
const RedeliveryWindow = 36 * time.Hour

// Event is one fact about a page: something that Meta reported, or something
// that pagestream decided. It is immutable once stored.
type Event struct {
	// ID is the dedup id: two events with the same ID are the same fact, even if
	// other fields differ.
	ID   string
	Type Type
	// Original and OriginalID are the type and id that an event of type
	// [ForeignReceived] would have had. Both are empty for all other types.
	Original   Type
	OriginalID string

	Page    PageID
	Contact ContactID
	// Time is when the fact happened, by Meta's clock, or by our clock for our own
	// decisions. It does not order events: the stream's sequence does.
	Time time.Time
	// Standby marks an item from entry.standby: another app owns the thread.
	Standby bool
	// TraceParent is the W3C trace context of the delivery, if it had one.
	TraceParent string
	Data        Data
}

// Data is the content of an event: typed fields first, the item's own bytes
// last. At most one of the pointer fields is set, the one that belongs to the
// event's type. All are nil for a kind without a typed form; the content is
// then in Raw only.
//
// Its text is personal data and must not get into a log or an error.
type Data struct {
	// App names the configured Meta app whose webhook received the item.
	App string `json:"app,omitempty"`
	// AppID is that app's id at Meta.
	AppID string `json:"app_id,omitempty"`
	// Adopted is the sequence of the event of type [ForeignReceived] that an operator
	// made this event from.
	Adopted uint64 `json:"adopted,omitempty"`
	// Object is the delivery's object, "page" or "instagram".
	Object string `json:"object,omitempty"`
	// Channel is the array of the entry that held the item: "messaging",
	// "standby", "changes" or "changed_fields".
	Channel string `json:"channel,omitempty"`
	// Kind is the item's own key or the change's field: "message", "feed".
	Kind string `json:"kind,omitempty"`
	// Source is [SourceWebhook], [SourceBackfill] or [SourceSend]; empty for an event of
	// ours.
	Source string `json:"source,omitempty"`
	// Sender and Recipient are the ids of the item's sender and recipient,
	// unchanged.
	Sender    string `json:"sender,omitempty"`
	Recipient string `json:"recipient,omitempty"`
	// EntryTime is entry.time in Unix milliseconds: when Meta sent the
	// delivery. It differs between two deliveries of the same fact.
	EntryTime int64 `json:"entry_time,omitempty"`
	// Fact is set if the event's id contains [Data.EntryTime], because the item has
	// neither a message id nor a time of its own. It is the hash of the item alone:
	// two events of a page with the same Fact report the same, which may be one fact
	// that Meta delivered twice with another entry.time, or may have happened twice.
	// Read models treat an equal fact that follows within [RedeliveryWindow] as one.
	Fact string `json:"fact,omitempty"`
	// Test marks an event that the developer dashboard's Test button sent. Such
	// events are never projected into a conversation.
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
	Comment      *Comment      `json:"comment,omitempty"`
	Post         *Post         `json:"post,omitempty"`
	PostReaction *PostReaction `json:"post_reaction,omitempty"`
	Mention      *Mention      `json:"mention,omitempty"`
	Rating       *Rating       `json:"rating,omitempty"`
	Lead         *Lead         `json:"lead,omitempty"`
	Feedback     *Feedback     `json:"feedback,omitempty"`
	Order        *Order        `json:"order,omitempty"`
	Label        *Label        `json:"label,omitempty"`
	Live         *Live         `json:"live,omitempty"`
	Unreadable   *Unreadable   `json:"unreadable,omitempty"`
	Connection   *Connection   `json:"connection,omitempty"`
	Subscription *Subscription `json:"subscription,omitempty"`
	Profile      *Profile      `json:"profile,omitempty"`
	Erasure      *Erasure      `json:"erasure,omitempty"`

	// Raw is the item byte for byte as it was received. [Data.Encode] does not
	// change it; an encoder alone would compact and escape it.
	Raw json.RawMessage `json:"raw,omitempty"`
}

// likeV1 makes encoding/json/v2 read and write what encoding/json does, in a third of
// its time. A fuzz test compares the two. Errors may differ, since none of their texts
// is passed on. Two spellings of the output differ: bytes that are not UTF-8 are
// written as U+FFFD itself and not as its escape, and U+2028 in Referral.Ads as its
// escape.
var likeV1 = jsonv2.JoinOptions(
	jsonv1.DefaultOptionsV1(),
	jsonv1.ReportErrorsWithLegacySemantics(false),
	jsontext.EscapeForHTML(false),
)

// encoded has copies of data for the encoder, which would have to be allocated otherwise.
var encoded = sync.Pool{New: func() any { return new(Data) }}

// Encode returns the data as one JSON object. Its last member is raw, with the
// bytes of Raw unchanged. [ErrBadData] is returned when Raw is not JSON, is nested so
// deeply that the data could not be decoded, or a field has a value that JSON cannot
// represent. Errors never quote the data.
func (d Data) Encode() ([]byte, error) {
	raw := d.Raw
	typed, _ := encoded.Get().(*Data)
	*typed = d
	typed.Raw = nil
	buf := bytes.NewBuffer(make([]byte, 0, 512+len(raw)))
	err := jsonv2.MarshalWrite(buf, typed, likeV1)
	*typed = Data{}
	encoded.Put(typed)
	if err != nil {
		return nil, fmt.Errorf("encode data: %w", ErrBadData)
	}
	out := buf.Bytes()
	if len(raw) == 0 {
		return out, nil
	}
	if !ValidJSON(raw) || len(raw) >= 2*MaxDepth && deeper(raw, MaxDepth-1) {
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

// Decoded returns what [DecodeData] returns for what Encode returned for d, without decoding it: the result shares its
// raw item with the encoded bytes, and what its fields point to with d. It returns false if that would not be the same
// for certain: of anything but a webhook's item, which package messenger made, and of text that is not UTF-8, which
// Encode changes.
func (d Data) Decoded(encoded []byte) (Data, bool) {
	raw := len(encoded) - 1 - len(d.Raw) // its end is the closing brace
	if d.Source != SourceWebhook || len(d.Raw) == 0 || raw < 0 || bytes.Contains(encoded[:raw], replacement) {
		return Data{}, false
	}
	d.Raw = encoded[raw : len(encoded)-1 : len(encoded)-1]
	return d, true
}

// replacement is what Encode writes for a byte that is not UTF-8.
var replacement = []byte(string(utf8.RuneError))

// DecodeData decodes the JSON that [Data.Encode] returned. Unknown fields are
// ignored, so an older program can read what a newer one wrote. Errors wrap
// [ErrBadData] and never quote the data.
func DecodeData(b []byte) (Data, error) {
	var d Data
	if err := jsonv2.Unmarshal(b, &d, likeV1); err != nil {
		return Data{}, fmt.Errorf("decode %d bytes: %w", len(b), ErrBadData)
	}
	return d, nil
}
