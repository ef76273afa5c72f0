// Package seal encrypts page tokens, so that they can be stored in the stream and
// the read models. It imports the standard library only, and its only storage is
// the key file.
//
// Additional authenticated data binds a sealed text to its owner: a token sealed
// for one page can't be opened for another. A sealed text has the id of its key,
// so keys can be rotated and old texts still be opened.
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

// Errors of sealing and opening. None contains plaintext or keys.
var (
	// ErrTooLarge is returned when a plaintext is longer than [MaxPlaintext].
	ErrTooLarge = errors.New("text to seal is too large")
	// ErrMalformed is returned when a text does not have the format of a sealed
	// text.
	ErrMalformed = errors.New("not a sealed text")
	// ErrUnknownKey is returned when the key of a sealed text is not in the ring,
	// for example because another key file was restored.
	ErrUnknownKey = errors.New("sealed with a key that is not in the key file")
	// ErrNotAuthentic is returned when a sealed text was changed, or was sealed
	// with other additional data.
	ErrNotAuthentic = errors.New("sealed text was changed or belongs to something else")
	// ErrTooManyKeys is returned when a ring already has [MaxKeys] keys.
	ErrTooManyKeys = errors.New("too many keys")
	// ErrPrimaryKey is returned when the key to remove is the one that seals.
	ErrPrimaryKey = errors.New("the key is in use; rotate first")
)

const (
	// MaxPlaintext is the maximum length of a text that Seal accepts, in bytes; a
	// token has a few hundred.
	MaxPlaintext = 64 << 10
	// MaxKeys is the maximum number of keys in a ring.
	MaxKeys = 256

	version  = "v1"
	keySize  = 32      // AES-256
	idSize   = 8       // random bytes; twice as many in hex
	overhead = 12 + 16 // nonce and tag
)

// encoding is strict, so that a sealed text has exactly one encoding.
var encoding = base64.RawURLEncoding.Strict()

// maxSealed is the maximum length of a text that Open decodes, in bytes.
var maxSealed = len(version) + 1 + 2*idSize + 1 + encoding.EncodedLen(MaxPlaintext+overhead)

// KeyRing is a set of AES-256-GCM keys. The primary key seals; every key opens
// what it sealed. A ring is safe for concurrent use. It never shows a key when it
// is printed, logged or encoded.
//
// One key may seal at most about 4 billion (2^32) texts, since nonces are random:
// use [KeyRing.Rotate] long before that.
type KeyRing struct {
	// set is replaced by a change and never modified. It is a pointer, so that a
	// printed copy of the struct shows an address instead of keys.
	set atomic.Pointer[keySet]
	// changing is held while a new set is made from the current one.
	changing sync.Mutex
	file     *followed // nil unless the ring follows its file
}

// keySet is the immutable content of a ring.
type keySet struct {
	keys    []*key // oldest first
	primary *key
	// root is what [KeyRing.Derive] derives from: the extract of the ring's first key,
	// which can't be computed back. It stays when that key is removed.
	root []byte
}

type key struct {
	id   string
	raw  []byte
	aead cipher.AEAD
}

func newRing(set *keySet) *KeyRing {
	k := &KeyRing{}
	k.set.Store(set)
	return k
}

// NewKeyRing returns a ring with one new random key. The key is in memory only
// until [KeyRing.Save].
func NewKeyRing() (*KeyRing, error) {
	set, err := new(keySet).withNewKey()
	if err != nil {
		return nil, err
	}
	return newRing(set), nil
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

// find returns the key with that id, nil if there is none.
func (s *keySet) find(id string) *key {
	for _, k := range s.keys {
		if k.id == id {
			return k
		}
	}
	return nil
}

// withNewKey returns a copy of the set with a new random key as its primary.
func (s *keySet) withNewKey() (*keySet, error) {
	if len(s.keys) >= MaxKeys {
		return nil, fmt.Errorf("rotate: %w: %d", ErrTooManyKeys, len(s.keys))
	}
	// crypto/rand.Read never returns an error: it crashes the process instead.
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
	next := &keySet{keys: append(slices.Clip(s.keys), k), primary: k, root: s.root}
	if next.root == nil {
		if next.root, err = extract(k); err != nil {
			return nil, err
		}
	}
	return next, nil
}

// without returns a copy of the set that lacks the key with that id.
func (s *keySet) without(id string) (*keySet, error) {
	switch k := s.find(id); {
	case k == nil:
		return nil, fmt.Errorf("remove key: %w: %s", ErrUnknownKey, id)
	case k == s.primary:
		return nil, fmt.Errorf("remove key %s: %w", id, ErrPrimaryKey)
	}
	keys := slices.DeleteFunc(slices.Clone(s.keys), func(k *key) bool { return k.id == id })
	return &keySet{keys: keys, primary: s.primary, root: s.root}, nil
}

// extract returns the root of a ring whose first key is k.
func extract(k *key) ([]byte, error) {
	root, err := hkdf.Extract(sha256.New, k.raw, nil)
	if err != nil {
		return nil, fmt.Errorf("extract root key: %w", err)
	}
	return root, nil
}

// Rotate adds a new random key and makes it the primary. Older keys stay in the
// ring and open what they sealed. The new key is in memory only until
// [KeyRing.Save]: save before sealing anything that outlives the process, or use
// [KeyRing.RotateFile]. [ErrTooManyKeys] is returned when the ring is full.
func (k *KeyRing) Rotate() error {
	return k.replace((*keySet).withNewKey, func(*keySet) error { return nil })
}

// replace replaces the set by the one that change returns, if save succeeds for it.
func (k *KeyRing) replace(change func(*keySet) (*keySet, error), save func(*keySet) error) error {
	k.changing.Lock()
	defer k.changing.Unlock()
	next, err := change(k.set.Load())
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
// JSON and headers. aad, the additional data, is not part of the result and must
// be the same for Open. Sealing the same text again returns a different result, so
// sealed texts can't be compared. [ErrTooLarge] is returned for a plaintext over
// [MaxPlaintext].
//
// The length of the plaintext is not hidden.
func (k *KeyRing) Seal(plaintext, aad []byte) (string, error) {
	if len(plaintext) > MaxPlaintext {
		return "", fmt.Errorf("seal %d bytes: %w: at most %d", len(plaintext), ErrTooLarge, MaxPlaintext)
	}
	primary := k.set.Load().primary
	head := version + "." + primary.id + "."
	return head + encoding.EncodeToString(primary.aead.Seal(nil, nil, plaintext, additionalData(head, aad))), nil
}

// Open decrypts a text that Seal returned for the same aad. Errors wrap
// [ErrMalformed], [ErrUnknownKey] or [ErrNotAuthentic]; no plaintext is returned
// with an error.
func (k *KeyRing) Open(sealed string, aad []byte) ([]byte, error) {
	id, body, err := split(sealed)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	key := k.set.Load().find(id)
	if key == nil && k.file != nil { // another process may have added it just now
		if _, err := k.Refresh(); err != nil {
			return nil, fmt.Errorf("open: %w: %s: %w", ErrUnknownKey, id, err)
		}
		key = k.set.Load().find(id)
	}
	if key == nil {
		return nil, fmt.Errorf("open: %w: %s", ErrUnknownKey, id)
	}
	plaintext, err := key.aead.Open(nil, nil, body, additionalData(sealed[:headSize], aad))
	if err != nil {
		return nil, fmt.Errorf("open: %w", ErrNotAuthentic)
	}
	return plaintext, nil
}

// KeyID returns the id of the key that a text was sealed with, or [ErrMalformed].
func KeyID(sealed string) (string, error) {
	id, _, err := split(sealed)
	return id, err
}

// NeedsReseal reports whether a text was sealed with another key than the primary:
// after opening and sealing it again it no longer needs the older key. It is false
// for a malformed text; use Open to get the error.
func (k *KeyRing) NeedsReseal(sealed string) bool {
	id, _, err := split(sealed)
	return err == nil && id != k.Primary()
}

// headSize is the length of "v1.<key id>.".
const headSize = len(version) + 1 + 2*idSize + 1

// Derive returns 32 secret bytes for a purpose, such as signing links. They are
// derived from the ring's first key (HKDF, RFC 5869). Rotations, restarts and the
// removal of that key do not change them; they are lost with the key file.
func (k *KeyRing) Derive(purpose string) ([]byte, error) {
	b, err := hkdf.Expand(sha256.New, k.set.Load().root, purpose, 32)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	return b, nil
}

// split returns the key id and the decoded body of a sealed text. The id is well
// formed.
func split(sealed string) (id string, body []byte, err error) {
	if len(sealed) < headSize || len(sealed) > maxSealed ||
		!strings.HasPrefix(sealed, version+".") || sealed[headSize-1] != '.' {
		return "", nil, ErrMalformed
	}
	id = sealed[len(version)+1 : headSize-1]
	// The decoder skips line ends, which would allow a second encoding.
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

// additionalData returns the authenticated data of a sealed text: its head and
// aad. The head has a fixed length, so the concatenation is unambiguous.
func additionalData(head string, aad []byte) []byte { return append([]byte(head), aad...) }

// String returns the id of the primary key and the number of keys.
func (k *KeyRing) String() string {
	if k == nil {
		return "seal.KeyRing(nil)"
	}
	set := k.set.Load()
	return fmt.Sprintf("seal.KeyRing(primary %s, %d keys)", set.primary.id, len(set.keys))
}

// Format writes [KeyRing.String] for every verb.
func (k *KeyRing) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue returns [KeyRing.String].
func (k *KeyRing) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText returns [KeyRing.String], so an encoder gets no keys. Only
// the methods that write a key file write them.
func (k *KeyRing) MarshalText() ([]byte, error) { return []byte(k.String()), nil }
