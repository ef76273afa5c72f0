package backup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"filippo.io/age"
)

var (
	// ErrRecipient is returned when a recipient is not a public key of age.
	ErrRecipient = errors.New("a recipient is a public key of age, as age-keygen prints it: age1…")
	// ErrIdentity is returned when an encrypted file of a backup can't be opened.
	ErrIdentity = errors.New("it is encrypted, and no identity that was given opens it; " +
		"add --identity FILE with the file that age-keygen has written")
)

// encrypted is the end of the names of encrypted files.
const encrypted = ".age"

// parseRecipients parses public keys of age.
func parseRecipients(keys []string) (out []age.Recipient, err error) {
	for _, key := range keys {
		r, err := age.ParseRecipients(bytes.NewReader([]byte(key)))
		if err != nil || len(r) != 1 {
			return nil, ErrRecipient
		}
		out = append(out, r...)
	}
	return out, nil
}

func encrypt(b []byte, to []age.Recipient) ([]byte, error) {
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to...)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(b); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// decrypt decrypts with the identities in a file. Its errors have nothing of the file.
func decrypt(b []byte, identity string) ([]byte, error) {
	if identity == "" {
		return nil, ErrIdentity
	}
	f, err := os.Open(identity)
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	defer f.Close()
	ids, err := age.ParseIdentities(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", identity, ErrIdentity) // the cause may quote a line
	}
	r, err := age.Decrypt(bytes.NewReader(b), ids...)
	if err != nil {
		return nil, ErrIdentity
	}
	return io.ReadAll(r)
}
