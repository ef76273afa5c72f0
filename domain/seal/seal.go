// Package seal encrypts page tokens, so that they can be stored in the stream
// and the read models. It imports the standard library only and knows no
// storage but the key file.
//
// A sealed text is bound to what it belongs to by its additional data: a token
// sealed for one page does not open for another. It says which key it was
// sealed with, so keys can be rotated while old texts still open.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

// Errors of sealing and opening. None has plain text or keys in it.
var (
	// ErrTooLarge says that a plaintext is over [MaxPlaintext].
	ErrTooLarge = errors.New("text to seal is too large")
	// ErrMalformed says that a text is not what Seal returns.
	ErrMalformed = errors.New("not a sealed text")
	// ErrUnknownKey says that the key a text was sealed with is not in the
	// ring, for example because another key file was restored.
	ErrUnknownKey = errors.New("sealed with a key that is not in the key file")
	// ErrNotAuthentic says that a text was changed, or that it was sealed for
	// something else: other additional data.
	ErrNotAuthentic = errors.New("sealed text is changed or belongs to something else")
	// ErrTooManyKeys says that a ring has [MaxKeys] keys already.
	ErrTooManyKeys = errors.New("too many keys")
)

const (
	// MaxPlaintext is the largest text that Seal takes, in bytes; a token is a
	// few hundred.
	MaxPlaintext = 64 << 10
	// MaxKeys is the most keys in one ring.
	MaxKeys = 256

	version  = "v1"
	keySize  = 32 // AES-256
	idSize   = 8  // random bytes; hex doubles them
	overhead = 12 + 16
)

// encoding is strict, so that one sealed text has one spelling.
var encoding = base64.RawURLEncoding.Strict()

// maxSealed bounds what Open will decode.
var maxSealed = len(version) + 1 + 2*idSize + 1 + encoding.EncodedLen(MaxPlaintext+overhead)

// KeyRing holds the keys: one primary that seals, and all that open. It is safe
// for concurrent use, and nothing that prints it shows a key.
//
// One key may seal about four thousand million texts, since nonces are random;
// [KeyRing.Rotate] long before.
type KeyRing struct {
	mu sync.RWMutex
	// Pointers, so that a printed copy of the struct shows addresses.
	keys    map[string]*key
	order   []string // ids, oldest first
	primary string
	// rotating is held by RotateFile, which must not run twice at once.
	rotating sync.Mutex
}

type key struct {
	raw  []byte
	aead cipher.AEAD
}

// NewKeyRing returns a ring with one new random key. It is in memory only: see
// [KeyRing.Save].
func NewKeyRing() (*KeyRing, error) {
	k := &KeyRing{keys: map[string]*key{}}
	if err := k.Rotate(); err != nil {
		return nil, err
	}
	return k, nil
}

// add puts a key at the end; the caller holds the lock or is alone.
func (k *KeyRing) add(id string, raw []byte) error {
	block, err := aes.NewCipher(raw)
	if err != nil {
		return fmt.Errorf("make cipher: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return fmt.Errorf("make cipher: %w", err)
	}
	k.keys[id] = &key{raw: raw, aead: aead}
	k.order = append(k.order, id)
	return nil
}

// Rotate adds a new random key and makes it the primary. Older keys stay and
// open what they sealed. The change is in memory until [KeyRing.Save]: save
// before sealing anything that outlives the process.
func (k *KeyRing) Rotate() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.keys) >= MaxKeys {
		return fmt.Errorf("rotate: %w: %d", ErrTooManyKeys, len(k.keys))
	}
	// crypto/rand.Read never fails: it ends the process instead.
	raw, id := make([]byte, keySize), make([]byte, idSize)
	rand.Read(raw)
	rand.Read(id)
	name := hex.EncodeToString(id)
	if _, taken := k.keys[name]; taken {
		return errors.New("rotate: random key id is taken")
	}
	if err := k.add(name, raw); err != nil {
		return fmt.Errorf("rotate: %w", err)
	}
	k.primary = name
	return nil
}

// Primary returns the id of the key that seals. Ids are random and not secret.
func (k *KeyRing) Primary() string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.primary
}

// KeyIDs returns the ids of all keys, oldest first.
func (k *KeyRing) KeyIDs() []string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return slices.Clone(k.order)
}

// Seal encrypts plaintext with the primary key and returns
// "v1.<key id>.<base64url of nonce and ciphertext>": printable ASCII, safe in
// JSON and headers. The same aad must be given to Open; it is not part of the
// result. Sealing one text twice gives two different results, so sealed texts
// can't be compared.
//
// The length of the plaintext is not hidden.
func (k *KeyRing) Seal(plaintext, aad []byte) (string, error) {
	if len(plaintext) > MaxPlaintext {
		return "", fmt.Errorf("seal %d bytes: %w: at most %d", len(plaintext), ErrTooLarge, MaxPlaintext)
	}
	k.mu.RLock()
	id := k.primary
	primary := k.keys[id]
	k.mu.RUnlock()
	head := version + "." + id + "."
	return head + encoding.EncodeToString(primary.aead.Seal(nil, nil, plaintext, bind(head, aad))), nil
}

// Open decrypts what Seal returned for the same aad. Errors wrap
// [ErrMalformed], [ErrUnknownKey] or [ErrNotAuthentic]; with any of them no
// plaintext is returned.
func (k *KeyRing) Open(sealed string, aad []byte) ([]byte, error) {
	id, body, err := split(sealed)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	k.mu.RLock()
	key := k.keys[id]
	k.mu.RUnlock()
	if key == nil {
		return nil, fmt.Errorf("open: %w: %s", ErrUnknownKey, id)
	}
	plaintext, err := key.aead.Open(nil, nil, body, bind(sealed[:headSize], aad))
	if err != nil {
		return nil, fmt.Errorf("open: %w", ErrNotAuthentic)
	}
	return plaintext, nil
}

// NeedsReseal reports whether a sealed text was sealed with another key than
// the primary, so that opening and sealing it again would let go of the older
// key. It is false for what is not a sealed text: Open says why.
func (k *KeyRing) NeedsReseal(sealed string) bool {
	id, _, err := split(sealed)
	return err == nil && id != k.Primary()
}

// headSize is the length of "v1.<key id>.".
const headSize = len(version) + 1 + 2*idSize + 1

// Derive returns 32 secret bytes for a purpose, such as signing links. They come
// from the oldest key (HKDF, RFC 5869), so they stay the same over rotations and
// as long as the key file does.
func (k *KeyRing) Derive(purpose string) ([]byte, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	b, err := hkdf.Key(sha256.New, k.keys[k.order[0]].raw, nil, purpose, 32)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	return b, nil
}

// split takes a sealed text apart. The id it returns is well formed.
func split(sealed string) (id string, body []byte, err error) {
	if len(sealed) < headSize || len(sealed) > maxSealed || !strings.HasPrefix(sealed, version+".") || sealed[headSize-1] != '.' {
		return "", nil, ErrMalformed
	}
	id = sealed[len(version)+1 : headSize-1]
	if !validID(id) {
		return "", nil, ErrMalformed
	}
	// The decoder skips line ends, which would be a second spelling.
	if strings.ContainsAny(sealed, "\r\n") {
		return "", nil, ErrMalformed
	}
	body, err = encoding.DecodeString(sealed[headSize:])
	if err != nil || len(body) < overhead {
		return "", nil, ErrMalformed
	}
	return id, body, nil
}

// validID reports whether id is lower-case hex of the right length.
func validID(id string) bool {
	return len(id) == 2*idSize && strings.Trim(id, "0123456789abcdef") == ""
}

// bind makes the head of a sealed text part of what is authenticated. The head
// has a fixed length, so head and aad can't be confused.
func bind(head string, aad []byte) []byte { return append([]byte(head), aad...) }

// String names the keys by id.
func (k *KeyRing) String() string {
	if k == nil {
		return "seal.KeyRing(nil)"
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	return fmt.Sprintf("seal.KeyRing(primary %s, %d keys)", k.primary, len(k.keys))
}

// Format writes [KeyRing.String] whatever the verb.
func (k *KeyRing) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue is [KeyRing.String].
func (k *KeyRing) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText is [KeyRing.String]: an encoder gets no keys. Only [KeyRing.Save]
// writes them.
func (k *KeyRing) MarshalText() ([]byte, error) { return []byte(k.String()), nil }
