package domain_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
)

// nested returns arrays that are nested n levels deep.
func nested(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }

// lineForms are raw items with the members that the outgoing form has for them.
var lineForms = map[string]struct{ raw, members string }{
	"compact":      {`{"a":1}`, `"raw":{"a":1}`},
	"spaces":       {`{"a": 1,	"b" :"\u00e4ä<&>"}`, `"raw":{"a": 1,	"b" :"\u00e4ä<&>"}`},
	"line breaks":  {"{\r\n\"a\": \"\\n\"\n}", `"raw":{  "a": "\n" },"raw_text":"{\r\n\"a\": \"\\n\"\n}"`},
	"50 levels":    {nested(50), `"raw":` + nested(50)},
	"51 levels":    {nested(51), `"raw_text":"` + nested(51) + `"`},
	"9,999 levels": {nested(9_999), `"raw_text":"` + nested(9_999) + `"`},
	"deep, with line breaks": {
		"[\n" + nested(50) + "]", `"raw_text":"[\n` + nested(50) + `]"`,
	},
	"brackets in a string": {`"` + nested(60) + `\""`, `"raw":"` + nested(60) + `\""`},
	"not UTF-8":            {"\"caf\xe9\"", `"raw_base64":"` + base64.StdEncoding.EncodeToString([]byte("\"caf\xe9\"")) + `"`},
	"not UTF-8, in lines":  {"[\n\"\xff\"]", `"raw_base64":"` + base64.StdEncoding.EncodeToString([]byte("[\n\"\xff\"]")) + `"`},
	"lone surrogate":       {`"\ud800"`, `"raw":"\ud800"`},
}

func TestEncodeLine(t *testing.T) {
	for name, c := range lineForms {
		t.Run(name, func(t *testing.T) {
			for _, d := range []domain.Data{{}, {Object: "page", Message: &domain.Message{Text: "<ä>"}}} {
				d.Raw = json.RawMessage(c.raw)
				line, err := d.EncodeLine()
				require.NoError(t, err)
				assert.True(t, bytes.HasSuffix(line, []byte(c.members+"}")), "%.200s", line)
				checkLine(t, d, line)

				stored, err := d.Encode()
				require.NoError(t, err)
				same, err := domain.Line(stored)
				require.NoError(t, err)
				assert.Equal(t, string(line), string(same))

				line, err = d.EncodeLineBase64()
				require.NoError(t, err)
				want := `"raw_base64":"` + base64.StdEncoding.EncodeToString([]byte(c.raw)) + `"}`
				assert.True(t, bytes.HasSuffix(line, []byte(want)), "%.200s", line)
				checkLine(t, d, line)
			}
		})
	}
}

// checkLine checks what every outgoing form has, and that it restores the data.
func checkLine(t require.TestingT, d domain.Data, line []byte) {
	require.True(t, utf8.Valid(line), "%q", line)
	require.False(t, bytes.ContainsAny(line, "\r\n"), "%q", line)
	require.True(t, json.Valid(line), "%q", line)
	require.False(t, deeper(line, 60), "too deep for a reader that stops at 64, in a list: %.200s", line)
	back, err := domain.DecodeLine(line)
	require.NoError(t, err)
	require.Equal(t, string(d.Raw), string(back.Raw))
}

// deeper reports whether JSON is nested more than n levels deep.
func deeper(b []byte, n int) bool {
	dec := json.NewDecoder(bytes.NewReader(b))
	for depth := 0; ; {
		token, err := dec.Token()
		if err != nil {
			return false
		}
		switch token {
		case json.Delim('['), json.Delim('{'):
			if depth++; depth > n {
				return true
			}
		case json.Delim(']'), json.Delim('}'):
			depth--
		}
	}
}

func TestLineRestoresStoredData(t *testing.T) {
	for name, c := range lineForms {
		stored, err := domain.Data{App: "main", Edit: &domain.Edit{Text: new("\u2028")}, Raw: json.RawMessage(c.raw)}.Encode()
		require.NoError(t, err)
		line, err := domain.Line(stored)
		require.NoError(t, err)
		back, err := domain.Unline(line)
		require.NoError(t, err)
		assert.Equal(t, string(stored), string(back), name)
	}
	newer := []byte(`{"new":[1],"raw":{"a" : 1}}`)
	line, err := domain.Line(newer)
	require.NoError(t, err)
	assert.Equal(t, string(newer), string(line), "what a newer version wrote is kept")
	line, err = domain.Line([]byte(`{"app":"a","Raw_Text":"{}","raw_base64":"?","raw":1}`))
	require.NoError(t, err)
	assert.Equal(t, `{"app":"a","raw":1}`, string(line), "no member that is not ours restores the item")
}

func TestLineRefusesBadData(t *testing.T) {
	_, err := domain.Data{Raw: []byte(`secret`)}.EncodeLine()
	require.ErrorIs(t, err, domain.ErrBadData)
	assert.NotContains(t, err.Error(), "secret")
	_, err = domain.Line([]byte("secret\n"))
	require.ErrorIs(t, err, domain.ErrBadData)
	for _, line := range []string{`secret`, `{"raw_text":1}`, `{"raw_base64":"?"}`, `[]`} {
		_, err = domain.DecodeLine([]byte(line))
		require.ErrorIs(t, err, domain.ErrBadData, line)
		assert.NotContains(t, err.Error(), "secret")
	}
	_, err = domain.Unline([]byte(`{"raw_text":"secret"}`))
	require.ErrorIs(t, err, domain.ErrBadData)
}

// TestEncodeRefusesWhatCannotBeDecoded checks the deepest item that can be stored.
func TestEncodeRefusesWhatCannotBeDecoded(t *testing.T) {
	b, err := domain.Data{Raw: []byte(nested(9_999))}.Encode()
	require.NoError(t, err)
	_, err = domain.DecodeData(b)
	require.NoError(t, err)
	_, err = domain.Data{Raw: []byte(nested(10_000))}.Encode()
	require.ErrorIs(t, err, domain.ErrBadData)
}

// FuzzLine checks that the outgoing form of any item is one line of valid JSON and UTF-8,
// and restores the item exactly.
func FuzzLine(f *testing.F) {
	for _, c := range lineForms {
		f.Add([]byte(c.raw), "text")
	}
	f.Add([]byte(`{}`), "\xff\r\n\x00")
	f.Fuzz(func(t *testing.T, raw []byte, text string) {
		raw = bytes.TrimSpace(raw) // the parser gives no space around a value
		d := domain.Data{
			Sender: text, Message: &domain.Message{Text: text, Referral: &domain.Referral{Ref: text}}, Raw: raw,
			Thread: &domain.Thread{Roles: map[string][]string{text: {text}}},
		}
		stored, err := d.Encode()
		if err != nil {
			_, err := d.EncodeLine()
			require.ErrorIs(t, err, domain.ErrBadData)
			return
		}
		line, err := d.EncodeLine()
		require.NoError(t, err)
		checkLine(t, d, line)
		same, err := domain.Line(stored)
		require.NoError(t, err)
		require.Equal(t, string(line), string(same))
		back, err := domain.Unline(line)
		require.NoError(t, err)
		require.Equal(t, string(stored), string(back))
		line, err = d.EncodeLineBase64()
		require.NoError(t, err)
		checkLine(t, d, line)
	})
}
