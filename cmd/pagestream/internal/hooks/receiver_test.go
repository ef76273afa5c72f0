package hooks

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// This file implements the receiver's side of Standard Webhooks. pagestream itself does
// not need it; the tests check deliveries with it.

// DefaultTolerance is the largest accepted difference between the time of a delivery
// and the receiver's clock.
const DefaultTolerance = 5 * time.Minute

// Errors of [Verify].
var (
	// ErrHeader is returned when one of the three headers is missing, malformed or
	// repeated.
	ErrHeader = errors.New("webhook header is missing or malformed")
	// ErrTimestamp is returned when the delivery is too old, or from the future.
	ErrTimestamp = errors.New("webhook timestamp is out of tolerance")
	// ErrSignature is returned when no signature is valid under any of the secrets.
	ErrSignature = errors.New("webhook signature does not match")
)

const (
	// maxSignatures bounds the signatures that a receiver compares.
	maxSignatures = 32
	// maxStamp is the maximum number of digits of a timestamp.
	maxStamp = 18
	// signaturePrefix is the prefix of the supported signature scheme.
	signaturePrefix = "v1,"
)

// Sign returns the value of [HeaderSignature] for a delivery with this id and time: one
// signature for each secret, in their order. The time is used in whole Unix seconds. It
// fails with [ErrSecret].
func Sign(secrets []string, id string, at time.Time, body []byte) (string, error) {
	keys, err := parseSecrets(secrets)
	if err != nil {
		return "", err
	}
	return signatures(keys, id, at, body), nil
}

// Verify returns nil if a delivery with these headers and exactly this body was signed
// with one of the secrets, and its time differs from now by at most the tolerance; 0
// means [DefaultTolerance]. Signatures of other schemes than v1 are skipped, and so are
// those after the first 32. It takes the same time for every wrong signature. It does
// not detect repeated deliveries: receivers must remember the webhook-id. It fails with
// [ErrHeader], [ErrTimestamp], [ErrSignature] or [ErrSecret].
func Verify(secrets []string, header http.Header, body []byte, now time.Time, tolerance time.Duration) error {
	keys, err := parseSecrets(secrets)
	if err != nil {
		return err
	}
	if tolerance <= 0 {
		tolerance = DefaultTolerance
	}
	d, err := parseHeader(header)
	if err != nil {
		return err
	}
	if off := now.Sub(d.at); off > tolerance || off < -tolerance {
		return ErrTimestamp
	}
	ok := false
	for _, key := range keys {
		want := sign(key, d.id, d.stamp, body)
		for _, sum := range d.sums {
			ok = hmac.Equal(sum, want) || ok
		}
	}
	if !ok {
		return ErrSignature
	}
	return nil
}

// sign computes the signature that the specification defines, independently of the
// module that the sender uses.
func sign(key []byte, id, stamp string, body []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + stamp + "."))
	mac.Write(body)
	return mac.Sum(nil)
}

// signed contains the parsed headers of a delivery.
type signed struct {
	id, stamp string
	at        time.Time
	sums      [][]byte
}

// parseHeader parses the three headers. Each must be present exactly once.
func parseHeader(h http.Header) (signed, error) {
	var text [3]string
	for i, name := range []string{HeaderID, HeaderTimestamp, HeaderSignature} {
		v := h.Values(name)
		if len(v) != 1 || v[0] == "" {
			return signed{}, ErrHeader
		}
		text[i] = v[0]
	}
	d := signed{id: text[0], stamp: text[1]}
	if len(d.stamp) > maxStamp || strings.Trim(d.stamp, "0123456789") != "" {
		return signed{}, ErrHeader
	}
	unix, err := strconv.ParseInt(d.stamp, 10, 64)
	if err != nil {
		return signed{}, ErrHeader
	}
	d.at = time.Unix(unix, 0)
	n := 0
	for one := range strings.SplitSeq(text[2], " ") {
		if n++; n > maxSignatures {
			break
		}
		code, ok := strings.CutPrefix(one, signaturePrefix)
		if !ok {
			continue // another scheme
		}
		if sum, err := base64.StdEncoding.DecodeString(code); err == nil && len(sum) == sha256.Size {
			d.sums = append(d.sums, sum)
		}
	}
	return d, nil
}
