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

// What follows is the receiver's half of Standard Webhooks, which pagestream has no
// use for itself: the tests hold what is sent against it.

// DefaultTolerance is how far a delivery's time may be from the receiver's.
const DefaultTolerance = 5 * time.Minute

// Errors of [Verify].
var (
	// ErrHeader is returned when one of the three headers is missing, malformed or
	// there twice.
	ErrHeader = errors.New("webhook header is missing or malformed")
	// ErrTimestamp is returned when the delivery is too old, or from the future.
	ErrTimestamp = errors.New("webhook timestamp is out of tolerance")
	// ErrSignature is returned when no signature is right under any of the secrets.
	ErrSignature = errors.New("webhook signature does not match")
)

const (
	// maxSignatures bounds what a receiver compares.
	maxSignatures = 32
	// maxStamp is how many digits a timestamp may have.
	maxStamp = 18
	// signaturePrefix marks the signatures that are understood.
	signaturePrefix = "v1,"
)

// Sign returns the value of [HeaderSignature] for a delivery with this id and
// time: one signature a secret, in their order. The time counts in whole Unix
// seconds. It fails with [ErrSecret].
func Sign(secrets []string, id string, at time.Time, body []byte) (string, error) {
	keys, err := parseSecrets(secrets)
	if err != nil {
		return "", err
	}
	return signatures(keys, id, at, body), nil
}

// Verify reports whether a delivery with these headers and this body, byte for
// byte, was signed with one of the secrets, and is not further than the tolerance
// from now; 0 means [DefaultTolerance]. Signatures of other schemes than v1 are
// passed over, and so are those after the first 32. It takes the same time for
// every wrong signature. It does not tell a repeat from the first: keep the
// webhook-id. It fails with [ErrHeader], [ErrTimestamp], [ErrSignature] or
// [ErrSecret].
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

// sign is the signature as the specification has it, worked out apart from what the
// sender uses.
func sign(key []byte, id, stamp string, body []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + stamp + "."))
	mac.Write(body)
	return mac.Sum(nil)
}

// signed is what the headers of a delivery say.
type signed struct {
	id, stamp string
	at        time.Time
	sums      [][]byte
}

// parseHeader reads the three headers, each of which has to be there once.
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
			continue // of another scheme
		}
		if sum, err := base64.StdEncoding.DecodeString(code); err == nil && len(sum) == sha256.Size {
			d.sums = append(d.sums, sum)
		}
	}
	return d, nil
}
