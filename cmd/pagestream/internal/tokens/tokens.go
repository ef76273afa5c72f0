// Package tokens has the tokens of the private listener: who holds each, and what it is
// good for.
//
// The tokens of files ([AdminName], [ReaderName]) are given by [Options]. The others are
// made and revoked while the program runs. Their records are in a JetStream key-value
// bucket, which all nodes watch. A record has the SHA-256 of its token. A token has 256
// random bits, so nobody can find it by trying, and a slow or salted hash would add
// nothing. A token is looked up by its hash, in a time that tells nothing about it.
//
// A session of the console is begun with a token's text, of which it keeps a proof
// ([ProofOf]). A record has the hash of the proof, so what is stored here is not enough to
// begin a session.
package tokens

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/streams"
)

// Errors of [Tokens].
var (
	// ErrInvalid is returned when no token has the given text: it never had, was revoked
	// or has expired.
	ErrInvalid = errors.New("the token is not valid")
	// ErrUnavailable is returned when it is not known whether a token was revoked,
	// because NATS can't be reached.
	ErrUnavailable = errors.New("tokens can't be checked now")
	// ErrName is returned when a name has other characters or another length.
	ErrName = errors.New("a token's name has 1 to 40 characters of a-z, 0-9, - and _")
	// ErrExists is returned when a token has the name.
	ErrExists = errors.New("there is a token of that name; revoke it first, or choose another name")
	// ErrUnknown is returned when no token has the name.
	ErrUnknown = errors.New("there is no token of that name; type: pagestream tokens list")
	// ErrRequest is returned when a token can't be as it is asked for.
	ErrRequest = errors.New("no such token can be made")
)

// Scope is what a token is good for.
type Scope string

// The scopes.
const (
	// Admin may do everything.
	Admin Scope = "admin"
	// Reader may read everything but tokens and the history, and change nothing.
	Reader Scope = "reader"
	// Metrics may read the metrics only.
	Metrics Scope = "metrics"
	// Company may read what belongs to one company, and send as its pages if
	// [Token.Send] is set.
	Company Scope = "company"
)

// Scopes returns all scopes.
func Scopes() []Scope { return []Scope{Admin, Reader, Metrics, Company} }

// The names of the tokens that are in files. No other token can have such a name.
const (
	AdminName  = "file:admin"
	ReaderName = "file:reader"
)

const (
	// bucket is the name of the key-value bucket.
	bucket = "PAGESTREAM_TOKENS"
	// Stream is the name of the JetStream stream that stores the bucket.
	Stream = "KV_" + bucket

	// Prefix is how the text of each token that is not in a file begins, so that scanners
	// for secrets find it.
	Prefix = "pst_"
	// minFile is the minimum number of characters of a file's token.
	minFile = 32
	// useEvery is how often the last use of a token is written at most, and how exact it is.
	useEvery = time.Minute
	// maxUses is how many writes of a last use may wait; the others are left out.
	maxUses = 64
)

var validName = regexp.MustCompile(`^[a-z0-9_-]{1,40}$`)

// Token is a token without its text.
type Token struct {
	Name  string `json:"name"`
	Scope Scope  `json:"scope"`
	// Company is the id of the company, Send whether the token may send; both are for
	// [Company] only.
	Company string `json:"company,omitempty"`
	Send    bool   `json:"send,omitempty"`
	// Created and Expires are in UTC; without Expires it does not expire.
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"`
	// LastUsed is the minute of the last use, zero for never.
	LastUsed time.Time `json:"last_used,omitzero"`
}

// Expired reports whether the token has expired.
func (t Token) Expired(now time.Time) bool { return !t.Expires.IsZero() && !now.Before(t.Expires) }

// Added is a new token with its text, which is not stored and can't be read again.
type Added struct {
	Token
	Text string `json:"token"`
}

// hash is the SHA-256 of a token's text.
type hash [sha256.Size]byte

func hashOf(text string) hash { return sha256.Sum256([]byte(text)) }

// Proof proves that somebody had the text of a token, which can't be computed from it.
type Proof [sha256.Size]byte

// ProofOf returns the proof of a token's text.
func ProofOf(text string) Proof { return sha256.Sum256([]byte("proof of token " + text)) }

// check returns what a proof is checked with, from which it can't be computed.
func (p Proof) check() hash { return sha256.Sum256(p[:]) }

// record is what the bucket has of a token.
type record struct {
	Token
	SHA256 string `json:"sha256"`
	// ProofSHA256 is the SHA-256 of the token's proof in hex. A record of an earlier version
	// gets it when the token's text is used for the first time; until then nothing is a proof.
	ProofSHA256 string `json:"proof_sha256,omitempty"`
}

// Holder is who holds a valid token.
type Holder struct {
	Name    string
	Scope   Scope
	Company string
	Send    bool

	check hash            // zero if nothing is a proof
	ctx   context.Context //nolint:containedctx // ends when the token is revoked or expires
}

// Proves reports whether a proof is that of the token's text. It takes the same time for
// each proof.
func (h Holder) Proves(p Proof) bool {
	got := p.check()
	return subtle.ConstantTimeCompare(got[:], h.check[:]) == 1
}

// Until returns a context that also ends, with [ErrInvalid] as its cause, when the token
// is revoked or expires.
func (h Holder) Until(ctx context.Context) (context.Context, context.CancelFunc) {
	if h.ctx == nil {
		return context.WithCancel(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(h.ctx, func() { cancel(ErrInvalid) })
	return ctx, func() { stop(); cancel(nil) }
}

// Options configure [Tokens]. Admin is required.
type Options struct {
	// JS stores the records. Without it there are the tokens of files only.
	JS jetstream.JetStream
	// Replicas of the bucket when it is made; see [streams.EnsureBeside].
	Replicas int
	// Admin and Reader are the texts of the tokens in files. Without Reader there is none.
	Admin, Reader string
	// Now is the clock; nil is time.Now.
	Now    func() time.Time
	Logger *slog.Logger
}

// entry is a record in memory.
type entry struct {
	record
	hash     hash
	check    hash // zero if nothing is a proof
	revision uint64
	ctx      context.Context //nolint:containedctx // ends when the token is revoked or expires
	end      context.CancelFunc
}

// Tokens finds the holders of tokens, and makes and revokes tokens. It is safe for
// concurrent use. Create it with [New], start it with Open and end it with Close.
type Tokens struct {
	opts  Options
	files map[hash]Holder
	kv    jetstream.KeyValue

	ctx    context.Context //nolint:containedctx // ends the background work
	cancel context.CancelFunc
	work   sync.WaitGroup
	uses   chan string

	mu      sync.Mutex
	byName  map[string]*entry
	byHash  map[hash]*entry
	revoked map[string]uint64 // by name the revision that was revoked here
	current bool              // the bucket is watched
	// reconnects is how often the connection had been lost when the bucket was read.
	reconnects uint64
}

// New returns the tokens of files. It fails if one of them is too short.
func New(o Options) (*Tokens, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	t := &Tokens{
		opts: o, files: map[hash]Holder{}, uses: make(chan string, maxUses),
		byName: map[string]*entry{}, byHash: map[hash]*entry{}, revoked: map[string]uint64{},
	}
	for _, f := range []struct {
		name, text string
		scope      Scope
	}{{ReaderName, o.Reader, Reader}, {AdminName, o.Admin, Admin}} {
		if f.name == ReaderName && f.text == "" {
			continue
		}
		if len(f.text) < minFile {
			return nil, fmt.Errorf("token %s: it has fewer than %d characters", f.name, minFile)
		}
		h := hashOf(f.text)
		t.files[h] = Holder{Name: f.name, Scope: f.scope, check: ProofOf(f.text).check()}
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t, nil
}

// Open makes the bucket, reads it, and follows it until Close.
func (t *Tokens) Open(ctx context.Context) (err error) {
	t.kv, err = streams.EnsureBucket(ctx, t.opts.JS, streams.Name, jetstream.KeyValueConfig{
		Bucket: bucket, Description: "Tokens of the private listener, hashed.", History: 1,
		Storage: jetstream.FileStorage, Replicas: t.opts.Replicas,
	})
	if err != nil {
		return fmt.Errorf("make bucket of tokens: %w", err)
	}
	w, err := t.watch(ctx)
	if err != nil {
		return err
	}
	t.work.Go(func() { t.follow(w) })
	t.work.Go(t.writeUses)
	return nil
}

// Close ends the background work. It is idempotent.
func (t *Tokens) Close() {
	t.cancel()
	t.work.Wait()
}

// watch reads the bucket and returns a watcher for its further changes.
func (t *Tokens) watch(ctx context.Context) (jetstream.KeyWatcher, error) {
	reconnects := t.opts.JS.Conn().Stats().Reconnects
	w, err := t.kv.WatchAll(t.ctx)
	if err != nil {
		return nil, fmt.Errorf("watch tokens: %w", err)
	}
	there := map[string]bool{}
	for {
		select {
		case <-ctx.Done():
			_ = w.Stop()
			return nil, fmt.Errorf("read tokens: %w", ctx.Err())
		case e, open := <-w.Updates():
			if !open {
				return nil, fmt.Errorf("read tokens: %w", ErrUnavailable)
			}
			if e != nil {
				t.apply(e)
				there[e.Key()] = e.Operation() == jetstream.KeyValuePut
				continue
			}
			t.complete(there, reconnects)
			return w, nil
		}
	}
}

// complete ends a read of the whole bucket, in which these names were there.
func (t *Tokens) complete(there map[string]bool, reconnects uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name := range t.byName {
		if !there[name] {
			t.drop(name)
		}
	}
	t.current, t.reconnects = true, reconnects
}

// follow applies the changes of the bucket until Close. When the watch ends, or after the
// connection was lost, the bucket is read again; none of its tokens is valid meanwhile.
func (t *Tokens) follow(w jetstream.KeyWatcher) {
	for {
		t.followOne(w)
		t.mu.Lock()
		t.current = false
		t.mu.Unlock()
		_ = w.Stop() // it may have ended
		for {
			readCtx, cancel := context.WithTimeout(t.ctx, writeTimeout)
			again, err := t.watch(readCtx)
			cancel()
			if err == nil {
				w = again
				break
			}
			if t.ctx.Err() != nil {
				return
			}
			t.opts.Logger.Warn("can't read tokens; none but those of files are valid", "err", err)
			if backoff.Sleep(t.ctx, time.Second) != nil {
				return
			}
		}
	}
}

// checkEvery is how often it is checked whether the connection was lost.
const checkEvery = 200 * time.Millisecond

func (t *Tokens) followOne(w jetstream.KeyWatcher) {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-tick.C:
			if conn := t.opts.JS.Conn(); conn.IsConnected() && conn.Stats().Reconnects != t.reconnects {
				return
			}
		case e, open := <-w.Updates():
			if !open {
				return
			}
			if e != nil {
				t.apply(e)
			}
		}
	}
}

// isCurrent reports whether every revocation is known. The caller holds the lock.
func (t *Tokens) isCurrent() bool {
	conn := t.opts.JS.Conn()
	return t.current && conn.IsConnected() && conn.Stats().Reconnects == t.reconnects
}

// apply applies a change of the bucket, unless a newer one was applied.
func (t *Tokens) apply(e jetstream.KeyValueEntry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	name := e.Key()
	if had := t.byName[name]; had != nil && had.revision >= e.Revision() || t.revoked[name] >= e.Revision() {
		return
	}
	delete(t.revoked, name)
	if e.Operation() != jetstream.KeyValuePut {
		t.drop(name)
		return
	}
	var r record
	err := json.Unmarshal(e.Value(), &r)
	h, hashErr := decodeHash(r.SHA256)
	check, checkErr := decodeHash(r.ProofSHA256)
	if r.ProofSHA256 == "" {
		checkErr = nil
	}
	if errors.Join(err, hashErr, checkErr) != nil || r.Name != name || !slices.Contains(Scopes(), r.Scope) {
		t.opts.Logger.Error("the record of a token can't be read; the token is not valid", "token", name)
		t.drop(name)
		return
	}
	t.put(r, h, check, e.Revision())
}

// decodeHash returns the hash that a text has in hex, or zero and an error.
func decodeHash(text string) (h hash, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(h) {
		return hash{}, errors.Join(errors.New("not a hash"), err)
	}
	return hash(b), nil
}

// put puts a record into memory. The caller holds the lock.
func (t *Tokens) put(r record, h, check hash, revision uint64) {
	had := t.byName[r.Name]
	if had != nil && had.hash == h && had.Expires.Equal(r.Expires) { // only its last use or its proof is new
		if had.LastUsed.After(r.LastUsed) {
			r.LastUsed = had.LastUsed
		}
		if r.ProofSHA256 == "" {
			r.ProofSHA256, check = had.ProofSHA256, had.check
		}
		had.record, had.check, had.revision = r, check, revision
		return
	}
	t.drop(r.Name)
	e := &entry{record: r, hash: h, check: check, revision: revision}
	if r.Expires.IsZero() {
		e.ctx, e.end = context.WithCancel(context.Background())
	} else {
		e.ctx, e.end = context.WithDeadline(context.Background(), r.Expires)
	}
	t.byName[r.Name], t.byHash[h] = e, e
}

// drop removes a record from memory. The caller holds the lock.
func (t *Tokens) drop(name string) {
	if e := t.byName[name]; e != nil {
		e.end()
		delete(t.byName, name)
		delete(t.byHash, e.hash)
	}
}

// Find returns the holder of the token with the text, and records the use. It fails with
// [ErrInvalid] or [ErrUnavailable].
func (t *Tokens) Find(text string) (Holder, error) {
	h := hashOf(text)
	if holder, ok := t.files[h]; ok {
		return holder, nil
	}
	if !strings.HasPrefix(text, Prefix) {
		return Holder{}, ErrInvalid
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byHash[h]
	if e != nil && e.ProofSHA256 == "" { // it is written with the next use
		e.check = ProofOf(text).check()
		e.ProofSHA256, e.LastUsed = hex.EncodeToString(e.check[:]), time.Time{}
	}
	return t.use(e)
}

// Named is [Tokens.Find] for the token with the name.
func (t *Tokens) Named(name string) (Holder, error) {
	for _, holder := range t.files {
		if holder.Name == name {
			return holder, nil
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.use(t.byName[name])
}

// use returns the holder of a valid token and records its use. The caller holds the lock.
func (t *Tokens) use(e *entry) (Holder, error) {
	now := t.opts.Now()
	switch {
	case t.opts.JS == nil:
		return Holder{}, ErrInvalid
	case !t.isCurrent():
		return Holder{}, ErrUnavailable
	case e == nil || e.Expired(now):
		return Holder{}, ErrInvalid
	}
	if minute := now.UTC().Truncate(useEvery); minute.After(e.LastUsed) {
		select {
		case t.uses <- e.Name:
			e.LastUsed = minute
		default: // too many wait; the next use is tried again
		}
	}
	return Holder{Name: e.Name, Scope: e.Scope, Company: e.Company, Send: e.Send, check: e.check, ctx: e.ctx}, nil
}

// writeTimeout bounds the write of a last use.
const writeTimeout = 5 * time.Second

// writeUses writes the last uses of tokens until Close. A record that has changed in the
// meantime stays as it is: a last use never brings a revoked token back.
func (t *Tokens) writeUses() {
	for {
		select {
		case <-t.ctx.Done():
			return
		case name := <-t.uses:
			if err := t.writeUse(name); err != nil && t.ctx.Err() == nil {
				t.opts.Logger.Debug("last use of a token was not stored", "token", name, "err", err)
			}
		}
	}
}

func (t *Tokens) writeUse(name string) error {
	t.mu.Lock()
	e := t.byName[name]
	if e == nil {
		t.mu.Unlock()
		return nil
	}
	r, revision := e.record, e.revision
	t.mu.Unlock()
	value, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode token: %w", err)
	}
	ctx, cancel := context.WithTimeout(t.ctx, writeTimeout)
	defer cancel()
	if _, err := t.kv.Update(ctx, name, value, revision); err != nil {
		return fmt.Errorf("store token: %w", err)
	}
	return nil
}

// List returns the tokens of the bucket, by name. Those of files are not among them.
func (t *Tokens) List() []Token {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Token, 0, len(t.byName))
	for _, e := range t.byName {
		out = append(out, e.Token)
	}
	slices.SortFunc(out, func(a, b Token) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Add makes a token. Its text is in the result only. It fails with [ErrName],
// [ErrExists] or [ErrRequest].
func (t *Tokens) Add(ctx context.Context, token Token) (Added, error) {
	now := t.opts.Now().UTC()
	token.Created, token.LastUsed, token.Expires = now.Truncate(time.Second), time.Time{}, token.Expires.UTC()
	if err := check(token, now); err != nil {
		return Added{}, err
	}
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails: crypto/rand
	text := Prefix + base64.RawURLEncoding.EncodeToString(b)
	h, check := hashOf(text), ProofOf(text).check()
	r := record{Token: token, SHA256: hex.EncodeToString(h[:]), ProofSHA256: hex.EncodeToString(check[:])}
	value, err := json.Marshal(r)
	if err != nil {
		return Added{}, fmt.Errorf("encode token: %w", err)
	}
	revision, err := t.kv.Create(ctx, token.Name, value)
	if errors.Is(err, jetstream.ErrKeyExists) {
		return Added{}, fmt.Errorf("token %q: %w", token.Name, ErrExists)
	}
	if err != nil {
		return Added{}, fmt.Errorf("store token: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if had := t.byName[token.Name]; had == nil || had.revision < revision {
		t.put(r, h, check, revision)
	}
	return Added{Token: token, Text: text}, nil
}

// check fails if there can be no such token.
func check(t Token, now time.Time) error {
	switch {
	case !validName.MatchString(t.Name):
		return ErrName
	case !slices.Contains(Scopes(), t.Scope):
		return fmt.Errorf("%w: a scope is one of admin, reader, metrics and company", ErrRequest)
	case (t.Scope == Company) != (t.Company != ""):
		return fmt.Errorf("%w: a company is needed for the scope company, and for no other", ErrRequest)
	case t.Send && t.Scope != Company:
		return fmt.Errorf("%w: only a company's token is made with or without the right to send", ErrRequest)
	case t.Expired(now):
		return fmt.Errorf("%w: the time at which it expires is over", ErrRequest)
	}
	return nil
}

// Revoke makes a token invalid: here at once, and on other nodes when they hear of it. It
// fails with [ErrUnknown].
func (t *Tokens) Revoke(ctx context.Context, name string) error {
	if !validName.MatchString(name) {
		return ErrUnknown // a key of the bucket has other rules
	}
	for try := 0; ; try++ {
		e, err := t.kv.Get(ctx, name)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			return fmt.Errorf("token %q: %w", name, ErrUnknown)
		}
		if err != nil {
			return fmt.Errorf("read token: %w", err)
		}
		// Its last use may be written at the same time.
		err = t.kv.Delete(ctx, name, jetstream.LastRevision(e.Revision()))
		if err != nil && try < 10 && isConflict(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("revoke token: %w", err)
		}
		t.forget(name, e.Revision())
		return nil
	}
}

// forget removes a revision of a record that was revoked here.
func (t *Tokens) forget(name string, revision uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if had := t.byName[name]; had == nil || had.revision <= revision {
		t.revoked[name] = revision
		t.drop(name)
	}
}

// isConflict reports whether a key has changed since its revision was read.
func isConflict(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}
