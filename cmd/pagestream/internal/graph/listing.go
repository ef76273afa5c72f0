package graph

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
)

// paging is the paging part of a listing in Graph's JSON.
type paging struct {
	Cursors struct {
		After string `json:"after"`
	} `json:"cursors"`
	// Next is a URL that contains the token. It is never requested; only its presence
	// and its cursor are used.
	Next string `json:"next"`
}

// after returns the cursor of the next page, empty at the end. A page without data
// may have the cursor only in Next.
func (p paging) after() (string, error) {
	if p.Next == "" {
		return "", nil
	}
	if p.Cursors.After != "" {
		return p.Cursors.After, nil
	}
	u, err := url.Parse(p.Next)
	if err != nil || u.Query().Get("after") == "" {
		return "", fmt.Errorf("%w: there is a next page but no cursor", ErrAnswer)
	}
	return u.Query().Get("after"), nil
}

// listPage reads one page of a listing, starting at the cursor after, and returns
// the cursor of the next page, empty at the end.
func listPage[T any](ctx context.Context, c *Client, k call, after string) (list []T, next string, err error) {
	params := url.Values{}
	maps.Copy(params, k.params)
	if after != "" {
		params.Set("after", after)
	}
	k.method, k.params = http.MethodGet, params
	var out struct {
		Data   *[]T   `json:"data"`
		Paging paging `json:"paging"`
	}
	if err := c.do(ctx, k, &out); err != nil {
		return nil, "", err
	}
	if out.Data == nil {
		return nil, "", fmt.Errorf("GET %s: %w: it has no data", k.path, ErrAnswer)
	}
	next, err = out.Paging.after()
	if err != nil {
		return nil, "", fmt.Errorf("GET %s: %w", k.path, err)
	}
	if next != "" && next == after {
		return nil, "", fmt.Errorf("GET %s: %w: the next page is the same page", k.path, ErrAnswer)
	}
	return *out.Data, next, nil
}

// listAll reads a listing to its end. [ErrAnswer] is returned if it has more than
// limit pages: in an incomplete listing the missing elements would look removed.
func listAll[T any](ctx context.Context, c *Client, k call, limit int) ([]T, error) {
	list, after := []T{}, ""
	for range limit {
		more, next, err := listPage[T](ctx, c, k, after)
		if err != nil {
			return nil, err
		}
		list = append(list, more...)
		if next == "" {
			return list, nil
		}
		after = next
	}
	return nil, fmt.Errorf("GET %s: %w: it has over %d pages", k.path, ErrAnswer, limit)
}
