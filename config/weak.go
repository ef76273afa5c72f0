package config

import (
	"fmt"
	"regexp"
	"strings"
)

const (
	// minSecret is the minimum length of a secret and of a verify token in bytes. Meta's
	// app secrets have 32.
	minSecret = 16
	// minUnknown is how many letters and digits of a secret must be outside of words that
	// anybody would try.
	minUnknown = 8
	// minDistinct is how many different characters a secret must have. Of random texts of 16
	// hex digits one in two million has fewer.
	minDistinct = 5
	// maxPart is the length up to which a text is no secret if it is repeated. Of random texts of 16
	// hex digits one in four billion is such a repetition.
	maxPart = 8
)

var (
	// fillIn matches texts that stand for a secret in documentation. It is compared with the
	// lower-case letters and digits only.
	fillIn = regexp.MustCompile(`changeme|changethis|changeit|replaceme|replacethis|placeholder|fillmein` +
		`|tobe(replaced|changed|defined|filledin)` +
		`|(your|insert|enter|write|paste)(the|your|my|a)?(meta|facebook|app|verify|webhook|page)*(secret|token|key)` +
		`|(secret|token|key)(goes)?here|devappsecretthatsignsnothingreal`)
	// known matches words and rows of keys that anybody would try. They are so long that hardly any
	// random text has several.
	known = regexp.MustCompile(`secrets?|tokens?|password|passwd|verify|verification|webhooks?|signature|signing` +
		`|pagestream|facebook|messenger|instagram|meta|graph|page|apps?|keys?|test(ing)?|example|sample|demo|default` +
		`|admin|root|user|company|production|staging|development|local(host)?|hello|world|change|please|write|here` +
		`|the|my|our|your|this|that|for|from|with|and|not|real|very|super|strong|long|random|string|value|some` +
		`|characters?|dashboard|operator|redacted|dummy|fake|null|none|todo|unset|foo|bar|baz` +
		`|loremipsum(dolor(sitamet)?)?|iloveyou|monkey|dragon` +
		`|0123456789abcdef|fedcba9876543210|0123456789|1234567890|123456789|9876543210|987654321|deadbeef|cafebabe` +
		`|abcdefgh(ijklmnopqrstuvwxyz)?|qwerty(uiop)?|asdf(ghjkl)?|letmein`)
)

// weak returns why a secret could be guessed, or "". It never quotes the secret.
func weak(s Secret) string {
	text := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r > 127 {
			return r
		}
		return -1
	}, strings.ToLower(string(s)))
	distinct := map[rune]bool{}
	for _, r := range string(s) {
		distinct[r] = true
	}
	switch {
	case fillIn.MatchString(text):
		return "is a placeholder from documentation"
	case len(s) < minSecret:
		return fmt.Sprintf("is %d bytes long, which can be guessed: at least %d", len(s), minSecret)
	case len(distinct) < minDistinct:
		return "has hardly any different characters, so it can be guessed"
	case repeats(text):
		return "repeats a few characters, so it can be guessed"
	case len(known.ReplaceAllString(text, "")) < minUnknown:
		return "consists of words that anybody would try"
	}
	return ""
}

// repeats reports whether a text is a repetition of at most maxPart bytes, of which the last may be cut off.
func repeats(text string) bool {
	for n := 1; n <= min(maxPart, len(text)/2); n++ {
		if text[n:] == text[:len(text)-n] {
			return true
		}
	}
	return false
}
