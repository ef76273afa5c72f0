package hooks

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// ErrSecret is returned when a secret is not "whsec_" and the base64 of 24 to 64
// bytes, or when an endpoint has no secret or more than 8. No error of this package
// contains a secret.
var ErrSecret = errors.New(`secret is not "whsec_" and the base64 of 24 to 64 bytes`)

const (
	secretPrefix = "whsec_"
	secretMin    = 24
	secretMax    = 64
	// secretNew is the size of a new secret in bytes.
	secretNew = 32
	// maxSecrets bounds the secrets of one endpoint, and so the header's size.
	maxSecrets = 8
)

// NewSecret returns a new random secret of 32 bytes, in the form that [ParseSecret]
// reads.
func NewSecret() string {
	key := make([]byte, secretNew)
	_, _ = rand.Read(key) // never fails
	return secretPrefix + base64.StdEncoding.EncodeToString(key)
}

// ParseSecret returns the key bytes of a secret. It fails with [ErrSecret].
func ParseSecret(secret string) ([]byte, error) {
	text, ok := strings.CutPrefix(secret, secretPrefix)
	if !ok {
		return nil, ErrSecret
	}
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(key) < secretMin || len(key) > secretMax {
		return nil, ErrSecret
	}
	return key, nil
}

func parseSecrets(secrets []string) ([][]byte, error) {
	if len(secrets) == 0 {
		return nil, fmt.Errorf("no secret: %w", ErrSecret)
	}
	if len(secrets) > maxSecrets {
		return nil, fmt.Errorf("more than %d secrets: %w", maxSecrets, ErrSecret)
	}
	keys := make([][]byte, len(secrets))
	for i, s := range secrets {
		key, err := ParseSecret(s)
		if err != nil {
			return nil, fmt.Errorf("secret %d: %w", i+1, err)
		}
		keys[i] = key
	}
	return keys, nil
}
