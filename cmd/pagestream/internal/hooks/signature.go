package hooks

import (
	"strconv"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// The headers of a delivery.
const (
	// HeaderID contains the event's id, which is the same for every try.
	HeaderID = "Webhook-Id"
	// HeaderTimestamp contains the time of the try in Unix seconds.
	HeaderTimestamp = "Webhook-Timestamp"
	// HeaderSignature contains one signature for each secret, separated by spaces.
	HeaderSignature = "Webhook-Signature"
)

func unixSeconds(at time.Time) string { return strconv.FormatInt(at.Unix(), 10) }

// signatures returns the value of [HeaderSignature]: one signature for each key, in
// the order of the keys.
func signatures(keys [][]byte, id string, at time.Time, body []byte) string {
	list := make([]string, len(keys))
	for i, key := range keys {
		w, _ := standardwebhooks.NewWebhookRaw(key) // never fails
		list[i], _ = w.Sign(id, at, body)           // never fails
	}
	return strings.Join(list, " ")
}
