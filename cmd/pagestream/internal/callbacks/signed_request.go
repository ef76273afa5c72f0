package callbacks

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// Errors of [ParseSignedRequest]. None quotes the request.
var (
	// ErrMalformed is returned when a signed_request does not consist of two base64
	// parts with JSON in the second, or has no user id.
	ErrMalformed = errors.New("signed_request is malformed")
	// ErrAlgorithm is returned when the algorithm of a signed_request is not
	// HMAC-SHA256.
	ErrAlgorithm = errors.New("signed_request is not signed with HMAC-SHA256")
	// ErrSignature is returned when the signature was not made with one of the secrets.
	ErrSignature = errors.New("signature of signed_request is wrong")
)

// Size limits in bytes. Meta's requests have a few hundred bytes.
const (
	maxRequest = 16 << 10
	maxUserID  = 64
)

// Request is the content of a signed_request.
type Request struct {
	// UserID is the person's app-scoped id.
	UserID string
	// Issued is zero if it is missing.
	Issued time.Time
	// Secret is the index of the secret that it was signed with.
	Secret int
}

// ParseSignedRequest verifies and decodes a signed_request. The signature is over the
// encoded payload. Both base64 alphabets are accepted, with or without padding.
// [ErrMalformed], [ErrSignature] or [ErrAlgorithm] is returned if it is not valid.
// https://developers.facebook.com/docs/reference/login/signed-request
func ParseSignedRequest(secrets []string, s string) (Request, error) {
	if len(s) > maxRequest {
		return Request{}, ErrMalformed
	}
	encoded, payload, found := strings.Cut(s, ".")
	if !found || strings.Contains(payload, ".") {
		return Request{}, ErrMalformed
	}
	signature, err := decode(encoded)
	if err != nil {
		return Request{}, ErrMalformed
	}
	body, err := decode(payload)
	if err != nil {
		return Request{}, ErrMalformed
	}
	out := Request{Secret: -1}
	for i, secret := range secrets {
		m := hmac.New(sha256.New, []byte(secret))
		m.Write([]byte(payload))
		if secret != "" && hmac.Equal(m.Sum(nil), signature) && out.Secret < 0 {
			out.Secret = i
		}
	}
	if out.Secret < 0 {
		return Request{}, ErrSignature
	}
	var in struct {
		Algorithm string          `json:"algorithm"`
		Issued    json.Number     `json:"issued_at"`
		User      json.RawMessage `json:"user_id"`
	}
	if json.Unmarshal(body, &in) != nil {
		return Request{}, ErrMalformed
	}
	if !strings.EqualFold(in.Algorithm, "HMAC-SHA256") {
		return Request{}, ErrAlgorithm
	}
	// An id may be a string, or a number with more digits than a float can represent.
	if out.UserID = strings.Trim(string(in.User), `"`); !isID(out.UserID) {
		return Request{}, ErrMalformed
	}
	if n, err := in.Issued.Int64(); err == nil && n > 0 {
		out.Issued = time.Unix(n, 0).UTC()
	}
	return out, nil
}

func decode(s string) ([]byte, error) {
	s = strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(s, "="))
	return base64.RawURLEncoding.DecodeString(s)
}

func isID(s string) bool {
	return s != "" && len(s) <= maxUserID && strings.Trim(s, "0123456789") == ""
}
