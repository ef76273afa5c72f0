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
	// minDistinct is how many different characters a secret must have.
	minDistinct = 4
)

var (
	// fillIn matches texts that stand for a secret in documentation. It is compared with the
	// lower-case letters and digits only.
	fillIn = regexp.MustCompile(`changeme|changethis|replaceme|replacethis|placeholder|fillmein|todo` +
		`|(your|insert|enter|write|paste)(the|your|my|a)?(meta|facebook|app|verify|webhook|page)*(secret|token|key)` +
		`|(secret|token|key)(goes)?here|devappsecretthatsignsnothingreal`)
	// known matches words and rows of keys that anybody would try.
	known = regexp.MustCompile(`secrets?|tokens?|password|passwd|verify|verification|webhooks?|signature|signing` +
		`|pagestream|facebook|messenger|instagram|meta|graph|page|apps?|keys?|test(ing)?|example|sample|demo|default` +
		`|admin|root|user|company|production|staging|development|local(host)?|hello|world|change|please|write|here` +
		`|the|my|our|your|this|that|for|from|with|and|not|real|very|super|strong|long|random|string|value|some` +
		`|0123456789abcdef|0123456789|1234567890|123456789|987654321|abcdefgh(ijklmnopqrstuvwxyz)?|qwerty(uiop)?|letmein`)
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
	case len(known.ReplaceAllString(text, "")) < minUnknown:
		return "consists of words that anybody would try"
	}
	return ""
}
