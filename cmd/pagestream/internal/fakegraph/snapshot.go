package fakegraph

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// snapshot is the state of a [Graph] that [Graph.Snapshot] keeps.
type snapshot struct {
	Tokens        map[string]savedToken `json:"tokens"`
	Subscriptions []pair[[]string]      `json:"subscriptions"`
	Tasks         []pair[[]string]      `json:"tasks"`
	Granted       []pair[[]string]      `json:"granted"`
	DataAccess    []pair[time.Time]     `json:"data_access"`
}

// savedToken is a token; its value is the key in snapshot.Tokens.
type savedToken struct {
	Kind    string    `json:"kind"`
	App     string    `json:"app"`
	User    string    `json:"user"`
	Page    string    `json:"page,omitempty"`
	Scopes  []string  `json:"scopes"`
	Issued  time.Time `json:"issued"`
	Expires time.Time `json:"expires,omitzero"`
	Long    bool      `json:"long"`
	Dead    int       `json:"dead,omitempty"`
}

// pair is an element of a map whose keys are pairs of ids.
type pair[T any] struct {
	Of    [2]string `json:"of"`
	Value T         `json:"value"`
}

func toPairs[T any](m map[[2]string]T) []pair[T] {
	out := []pair[T]{}
	for _, key := range slices.SortedFunc(maps.Keys(m), compareKeys) {
		out = append(out, pair[T]{key, m[key]})
	}
	return out
}

func fromPairs[T any](list []pair[T]) map[[2]string]T {
	m := map[[2]string]T{}
	for _, p := range list {
		m[p.Of] = p.Value
	}
	return m
}

func compareKeys(a, b [2]string) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) }

// Snapshot returns what must survive a restart of the fake, as JSON: every token with its
// value, whether it is valid, the pages' subscriptions, roles and consents. The bytes are equal
// as long as none of that changes. Conversations, leads, limits, and the app's own
// subscription are not in it.
func (g *Graph) Snapshot() []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := snapshot{
		Tokens: map[string]savedToken{}, Subscriptions: toPairs(g.subs), Tasks: toPairs(g.tasks),
		Granted: toPairs(g.granted), DataAccess: toPairs(g.dataAccess),
	}
	for value, t := range g.tokens {
		s.Tokens[value] = savedToken{t.kind, t.app, t.user, t.page, t.scopes, t.issued, t.expires, t.long, t.dead}
	}
	return marshal(s)
}

// Restore replaces that part of the state by a snapshot of a fake with the same options.
// [ErrOptions] is returned, and nothing is changed, if b is none.
func (g *Graph) Restore(b []byte) error {
	var s snapshot
	if json.Unmarshal(b, &s) != nil || s.Tokens == nil { // the decoder's error may quote a token
		return fmt.Errorf("%w: not a snapshot of it", ErrOptions)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.subs, g.tasks = fromPairs(s.Subscriptions), fromPairs(s.Tasks)
	g.granted, g.dataAccess = fromPairs(s.Granted), fromPairs(s.DataAccess)
	g.tokens = map[string]*token{}
	for value, t := range s.Tokens {
		g.tokens[value] = &token{t.Kind, t.App, t.User, t.Page, t.Scopes, t.Issued, t.Expires, t.Long, t.Dead}
	}
	return nil
}
