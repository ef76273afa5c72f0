package config

import (
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Secret is a value that must not be shown. fmt with any verb, slog, JSON and YAML
// print "(set, N bytes)" instead, or nothing if it is empty. Use string(s) to get
// the value.
type Secret string

// placeholder matches what String returns for a secret that is set.
var placeholder = regexp.MustCompile(`^\(set, \d+ bytes\)$`)

// String returns "(set, N bytes)", or "" for an empty secret.
func (s Secret) String() string {
	if s == "" || placeholder.MatchString(string(s)) {
		return string(s)
	}
	return fmt.Sprintf("(set, %d bytes)", len(s))
}

// Format hides the value for every verb, including %x, %d and %#v.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// MarshalText hides the value from encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue hides the value from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Servers is a list of NATS URLs separated by commas. User info in it is hidden
// when it is printed. Use string(s) to get the value.
type Servers string

// List returns the URLs; nil for the empty list.
func (s Servers) List() []string {
	if s == "" {
		return nil
	}
	return splitList(string(s))
}

// splitList splits text at commas and removes white space around the parts.
func splitList(text string) []string {
	list := strings.Split(text, ",")
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
	}
	return list
}

// String returns the list with "hidden" instead of each user info.
func (s Servers) String() string {
	list := s.List()
	for i, server := range list {
		// Everything before the last @ may be a credential, also if the value is not
		// a valid URL or the password has a slash in it.
		at := strings.LastIndexByte(server, '@')
		if at < 0 {
			continue
		}
		scheme := ""
		if before, _, found := strings.Cut(server[:at], "://"); found && isScheme(before) {
			scheme = before + "://"
		}
		list[i] = scheme + "hidden@" + server[at+1:]
	}
	return strings.Join(list, ",")
}

func isScheme(s string) bool { return slices.Contains([]string{"nats", "tls", "ws", "wss"}, s) }

// Format hides user info from every verb.
func (s Servers) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// MarshalText hides user info from encoders.
func (s Servers) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue hides user info from slog.
func (s Servers) LogValue() slog.Value { return slog.StringValue(s.String()) }

// check returns what is wrong with the list, without quoting it, or "".
func (s Servers) check() string {
	for _, server := range s.List() {
		u, err := url.Parse(server)
		if err != nil || !isScheme(u.Scheme) || u.Hostname() == "" {
			return "not a NATS URL: write nats://host:4222 (or tls://, ws://, wss://), several separated by commas"
		}
	}
	return ""
}
