// Package companies knows the companies that pages belong to.
//
// A company has an id and a name. The id is the name that it had first: it never
// changes, since events have it. The name is what people see, and [Companies.Rename]
// changes it. A company is known when a page was ever connected for it, or when it was
// added before: what events do not say is in a JetStream key-value bucket.
package companies

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams"
)

// Errors of [Companies].
var (
	// ErrName is returned when a name is empty, has more than 200 bytes or has
	// characters that no name has.
	ErrName = errors.New("a company's name has 1 to 200 bytes and no control characters")
	// ErrExists is returned when a company has the name, or had it first.
	ErrExists = errors.New("there is a company of that name")
	// ErrUnknown is returned when no company has the name.
	ErrUnknown = errors.New("there is no company of that name; type: pagestream companies list")
)

const (
	// bucket is the name of the key-value bucket.
	bucket = "PAGESTREAM_COMPANIES"
	// Stream is the name of the JetStream stream that stores the bucket.
	Stream = "KV_" + bucket

	maxName = 200
)

// Company is a company that pages belong to.
type Company struct {
	// ID is the company's name in events. It never changes.
	ID string `json:"id"`
	// Name is the name that people see.
	Name string `json:"name"`
	// Pages are the connected pages of the company.
	Pages []domain.PageID `json:"pages"`
}

// Options configure [Companies]. JS and Pages are required.
type Options struct {
	JS jetstream.JetStream
	// Pages is the read model of pages.
	Pages projections.Viewer
	// Replicas of the bucket when it is made; see [streams.EnsureBeside].
	Replicas int
}

// Companies lists and names companies. It is safe for concurrent use. Create it with
// [New].
type Companies struct {
	opts Options
	mu   sync.Mutex // serializes changes, so that no name is given twice
}

// New returns the companies of an installation.
func New(o Options) *Companies { return &Companies{opts: o} }

// record is what the bucket has of a company.
type record struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// recordKey returns the key of a company's record: keys allow few characters.
func recordKey(id string) string { return base64.RawURLEncoding.EncodeToString([]byte(id)) }

// Clean returns a company's name without surrounding space. It fails with [ErrName].
func Clean(name string) (string, error) {
	name = strings.TrimSpace(name)
	if name == "" || len(name) > maxName || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return "", ErrName
	}
	return name, nil
}

// List returns the known companies, in order of their names.
func (c *Companies) List(ctx context.Context) ([]Company, error) {
	known, err := pages.Companies(c.opts.Pages)
	if err != nil {
		return nil, fmt.Errorf("list companies of pages: %w", err)
	}
	list := make([]Company, 0, len(known))
	at := make(map[string]int, len(known))
	for _, k := range known {
		at[k.Name] = len(list)
		list = append(list, Company{ID: k.Name, Name: k.Name, Pages: k.Pages})
	}
	records, err := c.records(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		if i, ok := at[r.ID]; ok {
			list[i].Name = r.Name
			continue
		}
		list = append(list, Company{ID: r.ID, Name: r.Name, Pages: []domain.PageID{}})
	}
	slices.SortFunc(list, func(a, b Company) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return list, nil
}

// records reads the bucket.
func (c *Companies) records(ctx context.Context) (out []record, err error) {
	kv, err := c.opts.JS.KeyValue(ctx, bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, nil // nothing was added or renamed yet
	}
	if err != nil {
		return nil, fmt.Errorf("open companies: %w", err)
	}
	watcher, err := kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("read companies: %w", err)
	}
	defer func() { err = errors.Join(err, watcher.Stop()) }()
	for {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("read companies: %w", ctx.Err())
		case entry, open := <-watcher.Updates():
			if entry == nil { // all records were read
				if !open {
					return nil, fmt.Errorf("read companies: %w", jetstream.ErrNoMessages)
				}
				return out, nil
			}
			var r record
			if err := json.Unmarshal(entry.Value(), &r); err != nil {
				return nil, fmt.Errorf("decode company: %w", err)
			}
			out = append(out, r)
		}
	}
}

// Names returns the names of the known companies by id.
func (c *Companies) Names(ctx context.Context) (map[string]string, error) {
	list, err := c.List(ctx)
	out := make(map[string]string, len(list))
	for _, one := range list {
		out[one.ID] = one.Name
	}
	return out, err
}

// Find returns the company that has the name, or has it as its id. It fails with
// [ErrUnknown].
func (c *Companies) Find(ctx context.Context, name string) (Company, error) {
	list, err := c.List(ctx)
	if err != nil {
		return Company{}, err
	}
	return find(list, name)
}

func find(list []Company, name string) (Company, error) {
	name = strings.TrimSpace(name)
	i := slices.IndexFunc(list, func(c Company) bool { return c.ID == name })
	if i < 0 {
		i = slices.IndexFunc(list, func(c Company) bool { return c.Name == name })
	}
	if i < 0 || name == "" {
		return Company{}, fmt.Errorf("company %q: %w", name, ErrUnknown)
	}
	return list[i], nil
}

// Add makes a company known. It fails with [ErrName] or [ErrExists].
func (c *Companies) Add(ctx context.Context, name string) (Company, error) {
	name, err := Clean(name)
	if err != nil {
		return Company{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.isFree(ctx, name); err != nil {
		return Company{}, err
	}
	out := Company{ID: name, Name: name, Pages: []domain.PageID{}}
	return out, c.store(ctx, out)
}

// Rename gives a company another name. Its id, and so its events, stay as they are. It
// fails with [ErrUnknown], [ErrName] or [ErrExists].
func (c *Companies) Rename(ctx context.Context, company, name string) (Company, error) {
	name, err := Clean(name)
	if err != nil {
		return Company{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	out, err := c.Find(ctx, company)
	if err != nil {
		return Company{}, err
	}
	if name == out.Name {
		return out, nil
	}
	if name != out.ID { // its first name is always its own
		if err := c.isFree(ctx, name); err != nil {
			return Company{}, err
		}
	}
	out.Name = name
	return out, c.store(ctx, out)
}

// isFree fails with [ErrExists] if a company has the name or had it first.
func (c *Companies) isFree(ctx context.Context, name string) error {
	_, err := c.Find(ctx, name)
	switch {
	case err == nil:
		return fmt.Errorf("company %q: %w", name, ErrExists)
	case errors.Is(err, ErrUnknown):
		return nil
	}
	return err
}

// store writes a company's record.
func (c *Companies) store(ctx context.Context, company Company) error {
	kv, err := streams.EnsureBucket(ctx, c.opts.JS, streams.Name, jetstream.KeyValueConfig{
		Bucket: bucket, Description: "Names of companies.", History: 1, Storage: jetstream.FileStorage,
		Replicas: c.opts.Replicas,
	})
	if err != nil {
		return fmt.Errorf("make bucket of companies: %w", err)
	}
	value, err := json.Marshal(record{ID: company.ID, Name: company.Name})
	if err != nil {
		return fmt.Errorf("encode company: %w", err)
	}
	if _, err := kv.Put(ctx, recordKey(company.ID), value); err != nil {
		return fmt.Errorf("store company: %w", err)
	}
	return nil
}
