package webhook

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
)

func macOf(secret string, body []byte) (mac [sha256.Size]byte) {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write(body)
	h.Sum(mac[:0])
	return mac
}

// TestSignaturesAtTheSameTime checks that a state of an HMAC that is used again knows nothing of other bodies.
func TestSignaturesAtTheSameTime(t *testing.T) {
	keys := []*key{newKey("new"), newKey("old")}
	var wg sync.WaitGroup
	for c := range 8 {
		wg.Go(func() {
			for i := range 200 {
				body := bytes.Repeat(fmt.Appendf(nil, "%d %d,", c, i), i)
				for secret, want := range map[string]bool{"new": true, "old": true, "another": false, "": false} {
					assert.Equal(t, want, signedBy(keys, body, macOf(secret, body)), "%q", secret)
				}
				assert.False(t, signedBy(keys, append(body, '.'), macOf("new", body)))
			}
		})
	}
	wg.Wait()
}

func BenchmarkSignedBy(b *testing.B) {
	body := []byte(strings.Repeat("x", 350))
	keys, mac := []*key{newKey("0123456789abcdef0123456789abcdef")}, macOf("0123456789abcdef0123456789abcdef", body)
	b.ReportAllocs()
	for b.Loop() {
		if !signedBy(keys, body, mac) {
			b.Fatal("refused")
		}
	}
}
