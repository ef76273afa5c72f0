package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// ErrHandshake is returned when the answer of a callback URL is not the challenge, for
// example because another server answers there.
var ErrHandshake = errors.New("answer is not the challenge")

// Handshake sends the verification request that Meta sends when a callback URL is
// registered. [ErrHandshake] is returned if the answer is wrong. No error contains the
// verify token.
func Handshake(ctx context.Context, endpoint, verifyToken string) error {
	const challenge = "1158201444"
	at, err := url.Parse(endpoint)
	if err != nil {
		return fmt.Errorf("read callback URL: %w", err)
	}
	at.RawQuery = url.Values{
		"hub.mode": {"subscribe"}, "hub.verify_token": {verifyToken}, "hub.challenge": {challenge},
	}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return errors.New("callback URL can't be called")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return withoutQuery(err, verifyToken)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK || string(got) != challenge {
		return fmt.Errorf("%w: HTTP status %d", ErrHandshake, resp.StatusCode)
	}
	return nil
}

// withoutQuery removes the URL, which contains the verify token, from the error of a
// failed call.
func withoutQuery(err error, verifyToken string) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	// The error of an invalid redirect quotes its URL, which may contain the query.
	hidden := err.Error()
	for _, secret := range []string{verifyToken, url.QueryEscape(verifyToken)} {
		if secret != "" {
			hidden = strings.ReplaceAll(hidden, secret, "…")
		}
	}
	if hidden != err.Error() {
		return errors.New(hidden)
	}
	return err
}
