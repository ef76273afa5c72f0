package hooks

import (
	"strconv"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// The headers of a delivery.
const (
	// HeaderID has the event's id, the same at every try.
	HeaderID = "Webhook-Id"
	// HeaderTimestamp has the time of the try in Unix seconds.
	HeaderTimestamp = "Webhook-Timestamp"
	// HeaderSignature has one signature a secret, separated by spaces.
	HeaderSignature = "Webhook-Signature"
)

func stampOf(at time.Time) string { return strconv.FormatInt(at.Unix(), 10) }

// signatures is the value of [HeaderSignature]: one signature a key, in their order.
func signatures(keys [][]byte, id string, at time.Time, body []byte) string {
	list := make([]string, len(keys))
	for i, key := range keys {
		w, _ := standardwebhooks.NewWebhookRaw(key) // never fails
		list[i], _ = w.Sign(id, at, body)           // nor does this
	}
	return strings.Join(list, " ")
}
