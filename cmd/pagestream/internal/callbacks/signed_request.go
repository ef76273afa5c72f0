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
	// ErrMalformed is returned when it is not two base64 parts with JSON in the second,
	// or names no person.
	ErrMalformed = errors.New("signed_request is malformed")
	// ErrAlgorithm is returned when it is signed by something else than HMAC-SHA256.
	ErrAlgorithm = errors.New("signed_request is not signed with HMAC-SHA256")
	// ErrSignature is returned when no secret of ours has made the signature.
	ErrSignature = errors.New("signature of signed_request is wrong")
)

// Bounds of a request: Meta's has some hundred bytes.
const (
	maxRequest = 16 << 10
	maxUserID  = 64
)

// Request is what a signed_request says.
type Request struct {
	// UserID is the person's id in the app.
	UserID string
	// Issued is zero where it is not said. An old one is accepted: Meta may try
	// again for long, and to do it again changes nothing.
	Issued time.Time
	// Secret is the index of the secret that it was signed with.
	Secret int
}

// ParseSignedRequest reads a signed_request, whose signature is over the encoded
// payload as it came. Both base64 alphabets are taken, padded or not.
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
	// An id may be a string or a number with more digits than a float holds.
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
