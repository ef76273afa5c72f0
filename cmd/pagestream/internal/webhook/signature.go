package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"hash"
	"strings"
	"sync"
)

// SignatureHeader carries the HMAC-SHA256 of the raw body under the app
// secret. The older X-Hub-Signature (SHA-1) is not accepted.
const SignatureHeader = "X-Hub-Signature-256"

// parseSignature parses "sha256=" and 64 hex digits.
func parseSignature(header string) ([sha256.Size]byte, bool) {
	var mac [sha256.Size]byte
	digits, found := strings.CutPrefix(header, "sha256=")
	if !found || len(digits) != hex.EncodedLen(len(mac)) {
		return mac, false
	}
	_, err := hex.Decode(mac[:], []byte(digits))
	return mac, err == nil
}

// key is an app secret, with states of its HMAC that are used again: a new one costs as much as a small body.
type key struct{ states sync.Pool }

type hmacState struct {
	hash.Hash
	sum [sha256.Size]byte
}

func newKey(secret string) *key {
	return &key{sync.Pool{New: func() any { return &hmacState{Hash: hmac.New(sha256.New, []byte(secret))} }}}
}

// signed reports whether mac is the HMAC of the body. The comparison takes constant time.
func (k *key) signed(body []byte, mac [sha256.Size]byte) bool {
	h, _ := k.states.Get().(*hmacState)
	defer k.states.Put(h)
	h.Reset()
	h.Write(body)
	return hmac.Equal(h.Sum(h.sum[:0]), mac[:])
}

// signedBy reports whether mac is the HMAC of the body under any of the keys. Every key is
// tried.
func signedBy(keys []*key, body []byte, mac [sha256.Size]byte) bool {
	match := false
	for _, k := range keys {
		if k.signed(body, mac) {
			match = true
		}
	}
	return match
}

// equal compares two tokens in a time that does not depend on their contents or
// lengths. An empty b never matches.
func equal(a, b string) bool {
	if b == "" {
		return false
	}
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// validTraceParent reports whether s is a version 00 traceparent.
// https://www.w3.org/TR/trace-context/#traceparent-header
func validTraceParent(s string) bool {
	if len(s) != 55 || s[:3] != "00-" || s[35] != '-' || s[52] != '-' {
		return false
	}
	return lowerHex(s[3:35]) && lowerHex(s[36:52]) && lowerHex(s[53:]) &&
		strings.Trim(s[3:35], "0") != "" && strings.Trim(s[36:52], "0") != ""
}

func lowerHex(s string) bool {
	return strings.Trim(s, "0123456789abcdef") == ""
}
