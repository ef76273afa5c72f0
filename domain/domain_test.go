package domain_test

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pagestream/pagestream/domain"
)

// TestEncodeKeepsRaw checks that the item's own bytes are not changed.
// encoding/json alone would compact and escape them.
func TestEncodeKeepsRaw(t *testing.T) {
	for _, raw := range []string{
		`{"text":"\u00e4\/<b>&amp;"}`, "{ \"a\" :\n\t1e5 }", `"ä"`, `17`, `null`, "[1, 2]", "{\"bad\":\"\xff\"}",
	} {
		for _, d := range []domain.Data{{}, {Object: "page", Message: &domain.Message{Text: "<ä>"}}} {
			d.Raw = json.RawMessage(raw)
			b, err := d.Encode()
			require.NoError(t, err, raw)
			require.True(t, json.Valid(b), "%q became %s", raw, b)
			require.True(t, bytes.HasSuffix(b, []byte(`"raw":`+raw+"}")), "%q became %s", raw, b)
			back, err := domain.DecodeData(b)
			require.NoError(t, err)
			if raw != "null" {
				require.Equal(t, raw, string(back.Raw))
			}
		}
	}
}

func TestInvalidJSONIsRejected(t *testing.T) {
	_, err := (domain.Data{Raw: []byte(`{"text":`)}).Encode()
	require.Error(t, err)
	require.NotContains(t, err.Error(), "text")
	inner := domain.Data{
		Message: &domain.Message{Text: "secret", Attachments: []domain.Attachment{{Lat: new(math.NaN())}}},
	}
	_, err = inner.Encode()
	require.ErrorIs(t, err, domain.ErrBadData)
	require.NotContains(t, err.Error(), "secret")
	_, err = domain.DecodeData([]byte("secret words"))
	require.Error(t, err)
	require.NotContains(t, err.Error(), "words", "the error quotes the data")
}

func TestDedupID(t *testing.T) {
	require.Equal(t, "page:7:msg:m_1", domain.DedupID("page", "7", "msg", "m_1"))
	rapid.Check(t, func(t *rapid.T) {
		object, class := rapid.String().Draw(t, "object"), rapid.String().Draw(t, "class")
		key := rapid.String().Draw(t, "key")
		page := domain.PageID(rapid.String().Draw(t, "page"))
		id := domain.DedupID(object, page, class, key)
		require.Equal(t, domain.DedupID(object, page, class, key), id, "a second call returned another id")
		require.LessOrEqual(t, len(id), 160, "%q is not safe in a header", id)
		require.False(t, strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }),
			"%q is not safe in a header", id)
	})
	long := domain.DedupID("page", "7", "msg", strings.Repeat("x", 500))
	other := domain.DedupID("page", "7", "msg", strings.Repeat("x", 501))
	require.Len(t, long, len(other))
	require.NotEqual(t, other, long)
	require.True(t, strings.HasPrefix(long, "sha256:"))
}

func TestToken(t *testing.T) {
	for page, want := range map[domain.PageID]string{
		"": "0", "0": "0", "17841400008460056": "17841400008460056", "PAGE_ID-1": "PAGE_ID-1",
	} {
		require.Equal(t, want, page.Token(), "%q", page)
	}
	rapid.Check(t, func(t *rapid.T) {
		token := domain.PageID(rapid.String().Draw(t, "page")).Token()
		require.NotEmpty(t, token, "%q is not a subject token", token)
		require.LessOrEqual(t, len(token), 64, "%q is not a subject token", token)
		require.False(t, strings.ContainsAny(token, ".*> \t\r\n"), "%q is not a subject token", token)
	})
}

func TestTypes(t *testing.T) {
	require.Len(t, domain.Types(), 56, "the contract has 56 types")
	seen := map[domain.Type]bool{}
	for _, typ := range domain.Types() {
		require.False(t, seen[typ])
		require.True(t, typ.Known())
		require.Equal(t, string(typ), typ.Noun()+"."+typ.Verb())
		seen[typ] = true
	}
	require.False(t, domain.Type("message.unheard_of").Known(), "Known is true for a type that is not in the list")
	for typ, inbound := range map[domain.Type]bool{
		domain.MessageReceived: true, domain.DeliveryUnreadable: true,
		domain.PageConnected: false, domain.ContactErased: false,
	} {
		require.Equal(t, inbound, typ.Inbound())
	}
}
