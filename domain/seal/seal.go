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
	"sync/atomic"
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
	// A set never changes: a rotation puts another in its place. A pointer, so that
	// a printed copy of the struct shows an address.
	set atomic.Pointer[keySet]
	// rotating is held while a new set is made of the present one.
	rotating sync.Mutex
}

// keySet is what a ring holds: its keys, oldest first, and the one that seals.
type keySet struct {
	keys    []*key
	primary *key
}

type key struct {
	id   string
	raw  []byte
	aead cipher.AEAD
}

func ringOf(set *keySet) *KeyRing {
	k := &KeyRing{}
	k.set.Store(set)
	return k
}

// NewKeyRing returns a ring with one new random key. It is in memory only: see
// [KeyRing.Save].
func NewKeyRing() (*KeyRing, error) {
	set, err := new(keySet).rotated()
	if err != nil {
		return nil, err
	}
	return ringOf(set), nil
}

func newKey(id string, raw []byte) (*key, error) {
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, fmt.Errorf("make cipher: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("make cipher: %w", err)
	}
	return &key{id: id, raw: raw, aead: aead}, nil
}

// find returns the key of that id, nil if there is none.
func (s *keySet) find(id string) *key {
	for _, k := range s.keys {
		if k.id == id {
			return k
		}
	}
	return nil
}

// rotated returns the set with a new random key as its primary.
func (s *keySet) rotated() (*keySet, error) {
	if len(s.keys) >= MaxKeys {
		return nil, fmt.Errorf("rotate: %w: %d", ErrTooManyKeys, len(s.keys))
	}
	// crypto/rand.Read never fails: it ends the process instead.
	raw, id := make([]byte, keySize), make([]byte, idSize)
	rand.Read(raw)
	rand.Read(id)
	name := hex.EncodeToString(id)
	if s.find(name) != nil {
		return nil, errors.New("rotate: random key id is taken")
	}
	k, err := newKey(name, raw)
	if err != nil {
		return nil, fmt.Errorf("rotate: %w", err)
	}
	return &keySet{keys: append(slices.Clip(s.keys), k), primary: k}, nil
}

// Rotate adds a new random key and makes it the primary. Older keys stay and
// open what they sealed. The change is in memory until [KeyRing.Save]: save
// before sealing anything that outlives the process.
func (k *KeyRing) Rotate() error { return k.rotate(func(*keySet) error { return nil }) }

// rotate changes nothing if the new set can't be saved.
func (k *KeyRing) rotate(save func(*keySet) error) error {
	k.rotating.Lock()
	defer k.rotating.Unlock()
	next, err := k.set.Load().rotated()
	if err != nil {
		return err
	}
	if err := save(next); err != nil {
		return err
	}
	k.set.Store(next)
	return nil
}

// Primary returns the id of the key that seals. Ids are random and not secret.
func (k *KeyRing) Primary() string { return k.set.Load().primary.id }

// KeyIDs returns the ids of all keys, oldest first.
func (k *KeyRing) KeyIDs() []string {
	var ids []string
	for _, key := range k.set.Load().keys {
		ids = append(ids, key.id)
	}
	return ids
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
	primary := k.set.Load().primary
	head := version + "." + primary.id + "."
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
	key := k.set.Load().find(id)
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
	b, err := hkdf.Key(sha256.New, k.set.Load().keys[0].raw, nil, purpose, 32)
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
	// The decoder skips line ends, which would be a second spelling.
	if !validID(id) || strings.ContainsAny(sealed, "\r\n") {
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
	set := k.set.Load()
	return fmt.Sprintf("seal.KeyRing(primary %s, %d keys)", set.primary.id, len(set.keys))
}

// Format writes [KeyRing.String] whatever the verb.
func (k *KeyRing) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue is [KeyRing.String].
func (k *KeyRing) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText is [KeyRing.String]: an encoder gets no keys. Only [KeyRing.Save]
// writes them.
func (k *KeyRing) MarshalText() ([]byte, error) { return []byte(k.String()), nil }
