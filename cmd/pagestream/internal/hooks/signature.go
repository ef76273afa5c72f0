package hooks

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
	"time"
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

const signaturePrefix = "v1,"

func stampOf(at time.Time) string { return strconv.FormatInt(at.Unix(), 10) }

// signatures is the value of the header.
func signatures(keys [][]byte, id, stamp string, body []byte) string {
	list := make([]string, len(keys))
	for i, key := range keys {
		list[i] = signaturePrefix + base64.StdEncoding.EncodeToString(sign(key, id, stamp, body))
	}
	return strings.Join(list, " ")
}

func sign(key []byte, id, stamp string, body []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + stamp + "."))
	mac.Write(body)
	return mac.Sum(nil)
}
