package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"strings"
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

// signedBy reports whether mac is the HMAC of the body under any of the secrets.
// The comparison takes constant time, and every secret is tried.
func signedBy(secrets []string, body []byte, mac [sha256.Size]byte) bool {
	match := false
	for _, s := range secrets {
		h := hmac.New(sha256.New, []byte(s))
		h.Write(body)
		if hmac.Equal(h.Sum(nil), mac[:]) {
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
