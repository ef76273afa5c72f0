package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/sse"
)

// Client is a client of the private listener of a running server. The files of the read
// models are locked by the server's process, so every command reads them through the API.
type Client struct {
	base      string
	token     string
	tokenFile string // named in errors
	http      *http.Client
}

// client returns the client of the server. The address and the admin token come from --server
// and --token-file, or from the configuration.
func (c *CLI) client() (_ *Client, err error) {
	if c.api != nil {
		return c.api, nil
	}
	base, tokenFile := c.Server, c.TokenFile
	if base == "" || tokenFile == "" {
		cfg, err := c.load(nil)
		if err != nil {
			return nil, err
		}
		if base == "" {
			if base, err = listenURL("http.private", cfg.HTTP.Private); err != nil {
				return nil, err
			}
		}
		tokenFile = cmp.Or(tokenFile, cfg.HTTP.TokenFile)
	}
	c.api, err = NewClient(base, tokenFile)
	return c.api, err
}

// get sends a GET request and decodes the answer.
func get[T any](c *CLI, path string, query url.Values) (T, error) {
	return do[T](c, http.MethodGet, path, query, nil)
}

// post sends a POST request and decodes the answer.
func post[T any](c *CLI, path string, query url.Values, in any) (T, error) {
	return do[T](c, http.MethodPost, path, query, in)
}

func do[T any](c *CLI, method, path string, query url.Values, in any) (out T, err error) {
	cl, err := c.client()
	if err == nil {
		err = cl.Do(c.ctx, method, path, query, in, &out)
	}
	return out, err
}

// follow runs a long operation and calls progress with each of its steps. After an error
// the result may still contain what was done before it.
func follow[P, R any](c *CLI, path string, in any, progress func(P)) (out R, err error) {
	cl, err := c.client()
	if err != nil {
		return out, err
	}
	raw, err := cl.Run(c.ctx, path, in, func(line json.RawMessage) error {
		var p P
		if err := json.Unmarshal(line, &p); err != nil {
			return err
		}
		progress(p)
		return nil
	})
	c.redraw("")
	if raw != nil {
		if broken := json.Unmarshal(raw, &out); broken != nil {
			return out, errors.Join(err, fmt.Errorf("decode the server's answer: %w", broken))
		}
	}
	return out, err
}

// NewClient returns a client of the server at the base URL, or at host:port of this machine. It reads the admin token
// from tokenFile, and returns an error if that is not possible, or for host:port of another machine.
func NewClient(base, tokenFile string) (*Client, error) {
	base, err := withScheme(base)
	if err != nil {
		return nil, err
	}
	token, err := api.ReadToken(tokenFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w\nThe first start of the server writes it (pagestream serve, pagestream dev). "+
			"Is the server running?\nThen name its configuration with -c FILE or PAGESTREAM_CONFIG, "+
			"or its token with --token-file FILE", err)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w\nRun the command as root or as the user of the server, "+
			"or name a token of your own with --token-file FILE", err)
	case err != nil:
		return nil, err
	}
	return &Client{base: strings.TrimSuffix(base, "/"), token: token, tokenFile: tokenFile, http: &http.Client{}}, nil
}

// withScheme returns the address of a server as a URL. Without a scheme it is one of this machine: http sends the token
// unencrypted, so a person has to write it for another one.
func withScheme(base string) (string, error) {
	if strings.Contains(base, "://") {
		return base, nil
	}
	full := "http://" + base
	if u, err := url.Parse(full); err == nil {
		if host := u.Hostname(); host == "localhost" || net.ParseIP(host).IsLoopback() {
			return full, nil
		}
	}
	return "", fmt.Errorf("the server %s is not on this machine; write https://%s, or http://%s to send the token unencrypted",
		base, base, base)
}

// listenURL returns a URL that reaches the listen address of a setting from this machine.
func listenURL(setting, addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("%s %q: %w", setting, addr, err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port), nil
}

// requestTimeout limits the requests of Do. Long operations and the event feed have no limit.
const requestTimeout = 60 * time.Second

// Do sends one request and decodes the answer into out. It decodes nothing if out is nil or the
// status is 204. See [Client.Send] for the errors.
func (c *Client) Do(ctx context.Context, method, path string, query url.Values, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := c.Send(ctx, method, path, query, in, "application/json")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil || resp.StatusCode == http.StatusNoContent {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("decode the server's answer: %w", err)
	}
	return nil
}

// Send sends one request and returns the response if its status is below 300; the caller must
// close the body. Any other status is returned as an error for a person, a refusal.
func (c *Client) Send(
	ctx context.Context, method, path string, query url.Values, in any, accept string,
) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	u := c.base + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return nil, fmt.Errorf("the address of the server can't be used; give --server http://host:port: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Accept", accept)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unanswered(ctx, err)
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		var p api.Problem
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		if json.Unmarshal(b, &p) != nil {
			p = api.Problem{}
		}
		return nil, c.refused(resp.StatusCode, p)
	}
	return resp, nil
}

// Run sends a POST request whose answer is lines of JSON. It calls progress with each progress
// line and returns the result of the last line, also if that line has an error too.
func (c *Client) Run(
	ctx context.Context, path string, in any, progress func(json.RawMessage) error,
) (json.RawMessage, error) {
	resp, err := c.Send(ctx, http.MethodPost, path, nil, in, "application/x-ndjson")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	d := json.NewDecoder(resp.Body)
	for {
		var line struct {
			Progress, Result json.RawMessage
			Error            *api.Problem
		}
		if err := d.Decode(&line); err != nil {
			return nil, c.unanswered(ctx, err)
		}
		switch {
		case line.Error != nil:
			return line.Result, refusal{*line.Error}
		case line.Result != nil:
			return line.Result, nil
		}
		if err := progress(line.Progress); err != nil {
			return nil, fmt.Errorf("decode the server's answer: %w", err)
		}
	}
}

// each calls f with the items of a listing in order. It follows the cursor to the end, or until
// maxItems items were read (0: no limit).
func each[T any](c *CLI, path string, query url.Values, maxItems int, f func(T) error) error {
	if query == nil {
		query = url.Values{}
	}
	for n := 0; ; {
		limit := 500
		if maxItems > 0 {
			limit = min(maxItems-n, limit)
		}
		query.Set("limit", strconv.Itoa(limit))
		page, err := get[api.List[T]](c, path, query)
		if err != nil {
			return err
		}
		for _, item := range page.Items {
			if err := f(item); err != nil {
				return err
			}
			if n++; maxItems > 0 && n >= maxItems {
				return nil
			}
		}
		if page.Next == "" {
			return nil
		}
		query.Set("cursor", page.Next)
	}
}

// collect returns the items of a listing, at most maxItems of them (0: no limit).
func collect[T any](c *CLI, path string, query url.Values, maxItems int) ([]T, error) {
	items := []T{}
	err := each(c, path, query, maxItems, func(item T) error { items = append(items, item); return nil })
	return items, err
}

// whole returns the items of a listing that has no cursor.
func whole[T any](c *CLI, path string) ([]T, error) {
	list, err := get[api.List[T]](c, path, nil)
	return append([]T{}, list.Items...), err
}

// Feed calls open when the feed is open, and f with the id and data of each server-sent event after lastID, until f
// returns an error or the context or the connection ends. An empty lastID starts at the head of the stream.
func (c *Client) Feed(
	ctx context.Context, query url.Values, lastID string, open func(), f func(id string, data []byte) error,
) error {
	if lastID != "" {
		query.Set("after", lastID)
	}
	resp, err := c.Send(ctx, http.MethodGet, "/api/v1/events", query, nil, sse.ContentType)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	open()
	return sse.Read(resp.Body, func(e sse.Event) error { return f(e.ID, e.Data) })
}
