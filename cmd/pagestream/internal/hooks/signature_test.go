package hooks

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The test vector of the Standard Webhooks libraries.
const (
	vectorSecret    = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	vectorID        = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	vectorStamp     = "1614265330"
	vectorUnix      = 1614265330
	vectorBody      = `{"test": 2432232314}`
	vectorSignature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
)

func headers(id, stamp, signature string) http.Header {
	h := http.Header{}
	h.Set(HeaderID, id)
	h.Set(HeaderTimestamp, stamp)
	h.Set(HeaderSignature, signature)
	return h
}

func vectorHeader() http.Header { return headers(vectorID, vectorStamp, vectorSignature) }

func TestVectorOfTheSpec(t *testing.T) {
	at := time.Unix(vectorUnix, 999)
	got, err := Sign([]string{vectorSecret}, vectorID, at, []byte(vectorBody))
	require.NoError(t, err)
	assert.Equal(t, vectorSignature, got)
	assert.NoError(t, Verify([]string{vectorSecret}, vectorHeader(), []byte(vectorBody), at, 0))
}

func TestRotationVerifiesWithEitherSecret(t *testing.T) {
	old, fresh, other := NewSecret(), NewSecret(), NewSecret()
	now := time.Unix(vectorUnix, 0)
	both, err := Sign([]string{fresh, old}, "id", now, []byte("body"))
	require.NoError(t, err)
	assert.Len(t, strings.Split(both, " "), 2)
	h := headers("id", vectorStamp, both)
	assert.NoError(t, Verify([]string{old}, h, []byte("body"), now, 0))
	assert.NoError(t, Verify([]string{fresh}, h, []byte("body"), now, 0))
	assert.NoError(t, Verify([]string{other, old}, h, []byte("body"), now, 0))
	assert.ErrorIs(t, Verify([]string{other}, h, []byte("body"), now, 0), ErrSignature)
}

func TestVerifyRefuses(t *testing.T) {
	now := time.Unix(vectorUnix, 0)
	flipped := strings.Replace(vectorSignature, "g0h", "g1h", 1)
	tooMany := strings.Repeat("v1,x ", maxSignatures)
	set := func(name string) func(string) func(http.Header) {
		return func(value string) func(http.Header) { return func(h http.Header) { h.Set(name, value) } }
	}
	signature, timestamp := set(HeaderSignature), set(HeaderTimestamp)
	for name, c := range map[string]struct {
		change func(http.Header)
		body   string
		now    time.Time
		want   error
	}{
		"other body":         {body: vectorBody + " ", want: ErrSignature},
		"other id":           {change: func(h http.Header) { h.Set(HeaderID, "msg") }, want: ErrSignature},
		"other time":         {change: func(h http.Header) { h.Set(HeaderTimestamp, "1614265331") }, want: ErrSignature},
		"other signature":    {change: signature(flipped), want: ErrSignature},
		"other scheme":       {change: signature("v1a" + vectorSignature[2:]), want: ErrSignature},
		"no scheme":          {change: signature(vectorSignature[3:]), want: ErrSignature},
		"short signature":    {change: signature("v1,AAAA"), want: ErrSignature},
		"after the limit":    {change: signature(tooMany + vectorSignature), want: ErrSignature},
		"old":                {now: now.Add(DefaultTolerance + time.Second), want: ErrTimestamp},
		"from the future":    {now: now.Add(-DefaultTolerance - time.Second), want: ErrTimestamp},
		"no id":              {change: func(h http.Header) { h.Del(HeaderID) }, want: ErrHeader},
		"no time":            {change: func(h http.Header) { h.Del(HeaderTimestamp) }, want: ErrHeader},
		"no signature":       {change: func(h http.Header) { h.Del(HeaderSignature) }, want: ErrHeader},
		"empty signature":    {change: signature(""), want: ErrHeader},
		"two ids":            {change: func(h http.Header) { h.Add(HeaderID, "x") }, want: ErrHeader},
		"signed time":        {change: func(h http.Header) { h.Set(HeaderTimestamp, "+1614265330") }, want: ErrHeader},
		"time with a space":  {change: func(h http.Header) { h.Set(HeaderTimestamp, " 1614265330") }, want: ErrHeader},
		"time is too long":   {change: timestamp(strings.Repeat("9", 19)), want: ErrHeader},
		"time is far future": {change: timestamp(strings.Repeat("9", 18)), want: ErrTimestamp},
	} {
		t.Run(name, func(t *testing.T) {
			h := vectorHeader()
			if c.change != nil {
				c.change(h)
			}
			if c.body == "" {
				c.body = vectorBody
			}
			if c.now.IsZero() {
				c.now = now
			}
			assert.ErrorIs(t, Verify([]string{vectorSecret}, h, []byte(c.body), c.now, 0), c.want)
		})
	}
}

func TestVerifyAcceptsOneValidSignatureAmongOthers(t *testing.T) {
	h := headers(vectorID, vectorStamp, "v1a,AAAA v1,%%% "+vectorSignature+" v9")
	now := time.Unix(vectorUnix+100, 0)
	require.NoError(t, Verify([]string{vectorSecret}, h, []byte(vectorBody), now, 0))
	assert.ErrorIs(t, Verify([]string{vectorSecret}, h, []byte(vectorBody), now, 99*time.Second), ErrTimestamp)
}

func TestSecrets(t *testing.T) {
	key, err := ParseSecret(NewSecret())
	require.NoError(t, err)
	assert.Len(t, key, secretNew)
	one, other := NewSecret(), NewSecret()
	assert.NotEqual(t, one, other)

	of := func(n int) string { return secretPrefix + base64.StdEncoding.EncodeToString(make([]byte, n)) }
	for _, n := range []int{24, 64} {
		_, err := ParseSecret(of(n))
		require.NoError(t, err)
	}
	for _, bad := range []string{"", "whsec_", of(23), of(65), of(32)[6:], "whsec_hunter2!", of(32) + "\n!"} {
		_, err := ParseSecret(bad)
		require.ErrorIs(t, err, ErrSecret)
		assert.NotContains(t, err.Error(), "hunter2")
	}
	now := time.Unix(vectorUnix, 0)
	require.ErrorIs(t, Verify(nil, vectorHeader(), nil, now, 0), ErrSecret)
	_, err = Sign([]string{vectorSecret, "whsec_hunter2"}, "id", now, nil)
	require.ErrorIs(t, err, ErrSecret)
	assert.NotContains(t, err.Error(), "hunter2")
	_, err = Sign(make([]string, maxSecrets+1), "id", now, nil)
	assert.ErrorIs(t, err, ErrSecret)
}

func FuzzVerifyHeader(f *testing.F) {
	f.Add(vectorID, vectorStamp, vectorSignature)
	f.Add("", "", "")
	f.Add("a.b", "-1", "v1, v1,,v1,= v1,AAAA  v2,x")
	f.Add("id", "999999999999999999", strings.Repeat(vectorSignature+" ", 40))
	f.Fuzz(func(t *testing.T, id, stamp, list string) {
		h := headers(id, stamp, list)
		d, err := parseHeader(h)
		if err != nil {
			assert.ErrorIs(t, err, ErrHeader)
			return
		}
		assert.LessOrEqual(t, len(d.sums), maxSignatures)
		assert.Equal(t, id, d.id)
		// Other signatures in the list don't matter if a valid one is within the limit.
		own, err := Sign([]string{vectorSecret}, id, d.at, []byte(list))
		require.NoError(t, err)
		if unixSeconds(d.at) == stamp {
			h.Set(HeaderSignature, own+" "+list)
			require.NoError(t, Verify([]string{vectorSecret}, h, []byte(list), d.at, 0))
		}
		// A body that was not signed is refused.
		if id == vectorID && stamp == vectorStamp {
			return
		}
		assert.Error(t, Verify([]string{vectorSecret}, headers(id, stamp, list), []byte("other"), d.at, 0))
	})
}
