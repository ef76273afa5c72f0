package graph

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
)

// paging is how Graph pages a listing.
type paging struct {
	Cursors struct {
		After string `json:"after"`
	} `json:"cursors"`
	// Next is a URL with the token in it. It is never asked, only whether it is
	// there counts, and which cursor it has.
	Next string `json:"next"`
}

// after returns the cursor of what follows, empty at the end. A page without
// data may have it in Next alone.
func (p paging) after() (string, error) {
	if p.Next == "" {
		return "", nil
	}
	if p.Cursors.After != "" {
		return p.Cursors.After, nil
	}
	u, err := url.Parse(p.Next)
	if err != nil || u.Query().Get("after") == "" {
		return "", fmt.Errorf("%w: there is more and no cursor to it", ErrAnswer)
	}
	return u.Query().Get("after"), nil
}

// part asks for one page of a listing, from the cursor after on, and returns the
// cursor of the next.
func part[T any](ctx context.Context, c *Client, k call, after string) (list []T, next string, err error) {
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
		return nil, "", fmt.Errorf("GET %s: %w: it has the same page again", k.path, ErrAnswer)
	}
	return *out.Data, next, nil
}

// all follows a listing to its end, over at most so many pages. Half a listing
// is an error: what is missing would look as if it were gone.
func all[T any](ctx context.Context, c *Client, k call, most int) ([]T, error) {
	list, after := []T{}, ""
	for range most {
		more, next, err := part[T](ctx, c, k, after)
		if err != nil {
			return nil, err
		}
		list = append(list, more...)
		if next == "" {
			return list, nil
		}
		after = next
	}
	return nil, fmt.Errorf("GET %s: %w: it has over %d pages", k.path, ErrAnswer, most)
}
