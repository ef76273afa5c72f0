package connect

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/seal"
	"github.com/pagestream/pagestream/streams"
)

// Errors of [Secrets].
var (
	// ErrSecretMissing is returned when there is no secret with a reference, for
	// example after an import, or after a restore of the events alone.
	ErrSecretMissing = errors.New("it is not among the stored secrets")
	// ErrKeyRetired is returned when a secret is sealed with a retired key, because
	// this process has a key file of its own, which is an older one.
	ErrKeyRetired = errors.New("sealed with a retired key; copy the key file of the node where it was retired to this one")
)

// Secret has the sealed tokens of a connection. They are ciphertext (package seal), but
// neither fmt nor JSON prints them.
type Secret struct {
	Page domain.PageID
	// Ref is the reference that events and read models have.
	Ref          string
	ConnectionID string
	// Token is the sealed page token, VerifyToken the page's own sealed verify token
	// for the webhook handshake, if it has one.
	Token       string `json:"-"`
	VerifyToken string `json:"-"`
	// After is the sequence of the page's last page event when the secret was stored.
	// The event that refers to it can't be appended after a later page event.
	After uint64
}

// Format keeps the tokens out of logs, for every format verb.
func (s Secret) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "secret of page "+string(s.Page))
}

// keys returns the ids of the keys that the tokens are sealed with.
func (s Secret) keys() (ids []string) {
	for _, sealed := range []string{s.Token, s.VerifyToken} {
		id, err := seal.KeyID(sealed)
		if err == nil && (len(ids) == 0 || ids[0] != id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// Secrets stores the sealed tokens of connected pages, which are not events. [Bucket]
// implements it.
type Secrets interface {
	// Put stores a secret and returns its new reference. Other secrets of the page
	// are kept: the event that refers to the new one may never be stored.
	Put(ctx context.Context, s Secret) (ref string, err error)
	// Get returns a page's secret, or fails with [ErrSecretMissing].
	Get(ctx context.Context, page domain.PageID, ref string) (Secret, error)
	// Prune erases the page's secrets that the event at sequence seq has replaced: all
	// that were stored before it, except the one that it refers to, if any.
	Prune(ctx context.Context, page domain.PageID, seq uint64, keep string) error
	// Drop erases one secret.
	Drop(ctx context.Context, page domain.PageID, ref string) error
}

const (
	// missingFor is how long a bucket remembers that a secret is missing.
	missingFor = 30 * time.Second
	// orphanAge is the age from which a secret that its page does not refer to is
	// erased by a sweep. It is much more than the time from Put to the event.
	orphanAge = time.Hour
	// sweepEvery is the interval of the sweeps.
	sweepEvery = time.Hour
	// ensureTimeout bounds the creation of the bucket.
	ensureTimeout = 15 * time.Second
	// retired is the first part of the keys that name retired sealing keys.
	retired = "_retired"
)

// Bucket stores secrets in a JetStream key-value bucket, whose name is that of the
// stream of events and "_SECRETS". Its keys are <page>.<reference>.<copy>: a secret that
// is sealed again gets another copy before the old one is erased, and a new secret of a
// page does not replace the one that the page's last event refers to. Erasing overwrites
// the bytes on disk. Create it with [OpenBucket]; it is safe for concurrent use.
type Bucket struct {
	js     jetstream.JetStream
	events string
	bucket jetstream.Stream
	prefix string // of the subjects
	holds  atomic.Int32

	mu sync.Mutex
	// cache has secrets by reference. An entry without a reference says that the
	// secret was missing at that time.
	cache map[string]cached
}

type cached struct {
	Secret
	at time.Time
}

// row is the stored form of a [Secret].
type row struct {
	Page         domain.PageID `json:"page"`
	Ref          string        `json:"ref"`
	ConnectionID string        `json:"connection_id,omitempty"`
	Token        string        `json:"token"`
	VerifyToken  string        `json:"verify_token,omitempty"`
	After        uint64        `json:"after"`
}

// BucketOf returns the name of the JetStream stream in which the bucket of a stream of
// events is kept.
func BucketOf(stream string) string { return "KV_" + stream + "_SECRETS" }

// IsSecret reports whether a message in a bucket is a secret, by its subject, and not the mark of a
// retired key, which has fewer parts.
func IsSecret(subject string) bool {
	const shape = "$KV.bucket.page.reference.copy"
	return strings.Count(subject, ".") == strings.Count(shape, ".")
}

// OpenBucket opens the bucket of a stream of events, and creates it or updates its
// configuration if necessary. replicas are those of a new one; see [streams.EnsureBeside].
func OpenBucket(ctx context.Context, js jetstream.JetStream, stream string, replicas int) (*Bucket, error) {
	ctx, cancel := context.WithTimeout(ctx, ensureTimeout)
	defer cancel()
	prefix := "$KV." + strings.TrimPrefix(BucketOf(stream), "KV_") + "."
	// The configuration is that of a key-value bucket with history 1, with two
	// differences: messages may be deleted, since only that overwrites their bytes, and
	// reads are not answered by replicas that are behind.
	bucket, err := streams.EnsureBeside(ctx, js, stream, jetstream.StreamConfig{
		Name: BucketOf(stream), Description: "Sealed tokens of connected pages.", Subjects: []string{prefix + ">"},
		Retention: jetstream.LimitsPolicy, Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew,
		MaxMsgsPerSubject: 1, AllowRollup: true, Replicas: replicas,
	})
	if err != nil {
		return nil, fmt.Errorf("create bucket of secrets: %w", err)
	}
	return &Bucket{js: js, events: stream, bucket: bucket, prefix: prefix, cache: map[string]cached{}}, nil
}

// subject returns the subject of the secrets of a page. A ref or copy of "*" matches
// all.
func (b *Bucket) subject(page, ref, copied string) string {
	return b.prefix + page + "." + ref + "." + copied
}

// Put implements [Secrets]. [ErrKeyRetired] is returned if the tokens are sealed with a
// retired key.
func (b *Bucket) Put(ctx context.Context, s Secret) (string, error) {
	s.Ref = newID()
	return s.Ref, b.put(ctx, s)
}

// put stores a secret with a given reference.
func (b *Bucket) put(ctx context.Context, s Secret) error {
	seq, err := b.store(ctx, s)
	if err != nil {
		return err
	}
	// A key is marked as retired before what it sealed is looked for. So either that
	// search finds the new secret, or the mark is found here.
	for _, id := range s.keys() {
		_, err := b.bucket.GetLastMsgForSubject(ctx, b.prefix+retired+"."+id)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err == nil {
			err = fmt.Errorf("%w: %s", ErrKeyRetired, id)
		}
		_, eraseErr := b.erase(ctx, seq, s.Ref)
		return errors.Join(err, eraseErr)
	}
	return nil
}

// store adds a copy of a secret and returns its sequence.
func (b *Bucket) store(ctx context.Context, s Secret) (uint64, error) {
	data, err := json.Marshal(row(s))
	if err != nil {
		return 0, errors.New("encode secret") // the cause might quote the tokens
	}
	m := &nats.Msg{Subject: b.subject(s.Page.Token(), s.Ref, newID()), Data: data}
	ack, err := b.js.PublishMsg(ctx, m, jetstream.WithExpectStream(BucketOf(b.events)))
	if err != nil {
		return 0, fmt.Errorf("store secret: %w", err)
	}
	b.remember(s)
	return ack.Sequence, nil
}

func (b *Bucket) remember(s Secret) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cache[s.Ref] = cached{s, time.Now()}
}

// Get implements [Secrets]. A secret is read from the bucket once.
func (b *Bucket) Get(ctx context.Context, page domain.PageID, ref string) (Secret, error) {
	if ref == "" {
		return Secret{}, ErrSecretMissing
	}
	b.mu.Lock()
	known, found := b.cache[ref]
	b.mu.Unlock()
	switch {
	case !found || known.Ref == "" && time.Since(known.at) > missingFor:
	case known.Ref == "" || known.Page != page:
		return Secret{}, ErrSecretMissing
	default:
		return known.Secret, nil
	}
	m, err := b.bucket.GetLastMsgForSubject(ctx, b.subject(page.Token(), ref, "*"))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.cache[ref] = cached{at: time.Now()}
		return Secret{}, ErrSecretMissing
	}
	if err != nil {
		return Secret{}, fmt.Errorf("read secret: %w", err)
	}
	s, err := decodeSecret(m.Data)
	if err != nil || s.Page != page || s.Ref != ref {
		return Secret{}, ErrSecretMissing
	}
	b.remember(s)
	return s, nil
}

// Forget forgets the copies that were read, which may be sealed with keys that are removed.
func (b *Bucket) Forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.cache)
}

// decodeSecret decodes a stored secret. Its error contains nothing of it.
func decodeSecret(data []byte) (Secret, error) {
	var r row
	if json.Unmarshal(data, &r) != nil || r.Ref == "" {
		return Secret{}, errors.New("decode secret")
	}
	return Secret(r), nil
}

// erase deletes a stored copy and overwrites its bytes. It returns false if the copy was
// erased before.
func (b *Bucket) erase(ctx context.Context, seq uint64, ref string) (bool, error) {
	b.mu.Lock()
	delete(b.cache, ref)
	b.mu.Unlock()
	err := b.bucket.SecureDeleteMsg(ctx, seq)
	if err == nil {
		return true, nil
	}
	if errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		if _, err := b.bucket.GetMsg(ctx, seq); errors.Is(err, jetstream.ErrMsgNotFound) {
			return false, nil
		}
	}
	return false, fmt.Errorf("erase secret: %w", err)
}

// stored is one copy of a secret in the bucket.
type stored struct {
	Secret
	seq uint64
	at  time.Time
}

// list returns the copies of the secrets of a page, in order; "*" means all pages. A copy
// that is erased meanwhile may be missing. It needs no consumer, which would wait for a
// copy that is erased before it is delivered.
func (b *Bucket) list(ctx context.Context, page string) (out []stored, err error) {
	info, err := b.bucket.Info(ctx, jetstream.WithSubjectFilter(b.subject(page, "*", "*")))
	if err != nil {
		return nil, fmt.Errorf("list secrets: %w", err)
	}
	for subject := range info.State.Subjects {
		m, err := b.bucket.GetLastMsgForSubject(ctx, subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list secrets: %w", err)
		}
		if s, err := decodeSecret(m.Data); err == nil { // anything else was not stored by this program
			out = append(out, stored{s, m.Sequence, m.Time})
		}
	}
	slices.SortFunc(out, func(a, b stored) int { return cmp.Compare(a.seq, b.seq) })
	return out, nil
}

// eraseIf erases the copies of a page's secrets for which dead returns true.
func (b *Bucket) eraseIf(ctx context.Context, page domain.PageID, dead func(Secret) bool) error {
	list, err := b.list(ctx, page.Token())
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range list {
		if s.Page == page && dead(s.Secret) {
			_, err := b.erase(ctx, s.seq, s.Ref)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Prune implements [Secrets]. It keeps replaced secrets while [Bucket.Hold] is in effect;
// the secrets of a page without a connection are erased in any case.
func (b *Bucket) Prune(ctx context.Context, page domain.PageID, seq uint64, keep string) error {
	if keep != "" && b.holds.Load() > 0 {
		return nil
	}
	return b.eraseIf(ctx, page, func(s Secret) bool { return s.Ref != keep && s.After < seq })
}

// Drop implements [Secrets].
func (b *Bucket) Drop(ctx context.Context, page domain.PageID, ref string) error {
	return b.eraseIf(ctx, page, func(s Secret) bool { return s.Ref == ref })
}

// Hold keeps replaced secrets until release is called, so that a copy of the bucket has
// the secrets of an earlier copy of the events. The next sweep erases them.
func (b *Bucket) Hold() (release func()) {
	b.holds.Add(1)
	return sync.OnceFunc(func() { b.holds.Add(-1) })
}

// Empty reports whether the bucket has no secret.
func (b *Bucket) Empty(ctx context.Context) (bool, error) {
	_, err := b.bucket.GetLastMsgForSubject(ctx, b.subject("*", "*", "*"))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for secrets: %w", err)
	}
	return false, nil
}

// Run sweeps the bucket now and every hour until the context ends, and then returns nil.
// The first sweep also loads the secrets into the cache.
func (b *Bucket) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := b.sweep(ctx, time.Now()); err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// sweep erases the secrets that their page's last event does not refer to, if they are
// older than [orphanAge]: replaced ones and those without an event, which remain after a
// crash.
func (b *Bucket) sweep(ctx context.Context, now time.Time) error {
	list, err := b.list(ctx, "*")
	if err != nil || b.holds.Load() > 0 {
		return err
	}
	b.mu.Lock()
	clear(b.cache)
	for _, s := range list {
		b.cache[s.Ref] = cached{s.Secret, now}
	}
	b.mu.Unlock()
	newest := map[string]uint64{} // the last copy of each secret
	for _, s := range list {
		newest[s.Ref] = s.seq
	}
	current := map[domain.PageID]string{}
	for _, s := range list {
		if now.Sub(s.at) < orphanAge {
			continue
		}
		ref, read := current[s.Page]
		if !read {
			if ref, err = b.current(ctx, s.Page); err != nil {
				return err
			}
			current[s.Page] = ref
		}
		if s.Ref == ref && s.seq == newest[s.Ref] {
			continue
		}
		if _, err := b.erase(ctx, s.seq, s.Ref); err != nil {
			return err
		}
	}
	return nil
}

// current returns the reference that the page's last event about a secret has, empty if
// the page is not connected.
func (b *Bucket) current(ctx context.Context, page domain.PageID) (ref string, err error) {
	events, err := b.js.Stream(ctx, b.events)
	if err != nil {
		return "", fmt.Errorf("get stream: %w", err)
	}
	last := uint64(0)
	for _, t := range []domain.Type{domain.PageConnected, domain.PageDisconnected, domain.PageTokenRefreshed} {
		m, err := events.GetLastMsgForSubject(ctx, streams.Subject(page, t))
		if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && m.Sequence < last {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("find last event of page %s: %w", page, err)
		}
		e, err := streams.Decode(m.Subject, m.Header, m.Data, m.Sequence, m.Time)
		if err != nil {
			return "", fmt.Errorf("read last event of page %s: %w", page, err)
		}
		last = e.Seq
		if c := e.Data.Connection; c != nil {
			ref = c.Secret
		}
	}
	return ref, nil
}

// Uses counts the secrets by the ids of the keys that they are sealed with.
func (b *Bucket) Uses(ctx context.Context) (map[string]int, error) {
	list, err := b.list(ctx, "*")
	if err != nil {
		return nil, err
	}
	out := map[string]int{}
	for _, s := range list {
		for _, id := range s.keys() {
			out[id]++
		}
	}
	return out, nil
}

// Retire marks a key as retired: [Bucket.Put] refuses what a process seals with it from
// now on.
func (b *Bucket) Retire(ctx context.Context, key string) error {
	if _, err := b.js.Publish(ctx, b.prefix+retired+"."+key, []byte(`{}`)); err != nil {
		return fmt.Errorf("mark key %s as retired: %w", key, err)
	}
	return nil
}

// Reseal seals the secrets that use a key for which match returns true with the primary
// key of the ring. Their references stay. It calls done for each of these secrets, with
// the error if its tokens can't be opened; then the secret is not changed. Reseal may be
// repeated after an error.
func (b *Bucket) Reseal(
	ctx context.Context, ring *seal.KeyRing, match func(key string) bool, done func(domain.PageID, error),
) error {
	list, err := b.list(ctx, "*")
	if err != nil {
		return err
	}
	for _, s := range list {
		uses := false
		for _, id := range s.keys() {
			uses = uses || match(id)
		}
		if !uses {
			continue
		}
		next := s.Secret
		err := next.reseal(ring)
		if err == nil {
			err = b.replace(ctx, s, next)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("seal secrets again: %w", ctx.Err())
		}
		done(s.Page, err)
	}
	return nil
}

// reseal seals the tokens with the primary key.
func (s *Secret) reseal(ring *seal.KeyRing) error {
	for _, t := range []struct {
		sealed *string
		aad    []byte
	}{{&s.Token, TokenAAD(s.Page)}, {&s.VerifyToken, VerifyTokenAAD(s.Page)}} {
		if *t.sealed == "" {
			continue
		}
		plain, err := ring.Open(*t.sealed, t.aad)
		if err != nil {
			return fmt.Errorf("page %s: %w: %w", s.Page, ErrToken, err)
		}
		if *t.sealed, err = ring.Seal(plain, t.aad); err != nil {
			return fmt.Errorf("seal tokens of page %s: %w", s.Page, err)
		}
	}
	return nil
}

// replace stores another copy of a secret and erases the old one. If the old one is not
// there any more, the secret was erased meanwhile, or sealed by another process: then
// the new copy is erased again.
func (b *Bucket) replace(ctx context.Context, old stored, next Secret) error {
	seq, err := b.store(ctx, next)
	if err != nil {
		return err
	}
	found, err := b.erase(ctx, old.seq, old.Ref)
	if err == nil && !found {
		_, err = b.erase(ctx, seq, next.Ref)
	}
	return err
}

// Import stores the sealed tokens of an event of an earlier version, in which they were a
// part of the connection, and returns their reference. It is the same for the same tokens.
func (b *Bucket) Import(ctx context.Context, s Secret) (string, error) {
	sum := sha256.Sum256([]byte(s.Token + "\n" + s.VerifyToken))
	s.Ref = hex.EncodeToString(sum[:12])
	if _, err := b.Get(ctx, s.Page, s.Ref); !errors.Is(err, ErrSecretMissing) {
		return s.Ref, err
	}
	return s.Ref, b.put(ctx, s)
}
