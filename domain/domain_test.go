package domain_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

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
			if err != nil {
				t.Fatalf("%q: %v", raw, err)
			}
			if !json.Valid(b) || !bytes.HasSuffix(b, []byte(`"raw":`+raw+"}")) {
				t.Errorf("%q became %s", raw, b)
			}
			back, err := domain.DecodeData(b)
			if err != nil || raw != "null" && string(back.Raw) != raw {
				t.Errorf("%q was decoded as %q, %v", raw, back.Raw, err)
			}
		}
	}
}

func TestInvalidJSONIsRejected(t *testing.T) {
	if _, err := (domain.Data{Raw: []byte(`{"text":`)}).Encode(); err == nil || strings.Contains(err.Error(), "text") {
		t.Errorf("got %v", err)
	}
	inner := domain.Data{Referral: &domain.Referral{Ads: []byte(`secret`)}}
	if _, err := inner.Encode(); !errors.Is(err, domain.ErrBadData) || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
	if _, err := domain.DecodeData([]byte("secret words")); err == nil || strings.Contains(err.Error(), "words") {
		t.Errorf("the error quotes the data: %v", err)
	}
}

func TestDedupID(t *testing.T) {
	if got := domain.DedupID("page", "7", "msg", "m_1"); got != "page:7:msg:m_1" {
		t.Errorf("got %s", got)
	}
	rapid.Check(t, func(t *rapid.T) {
		object, class := rapid.String().Draw(t, "object"), rapid.String().Draw(t, "class")
		key := rapid.String().Draw(t, "key")
		page := domain.PageID(rapid.String().Draw(t, "page"))
		id := domain.DedupID(object, page, class, key)
		if id != domain.DedupID(object, page, class, key) {
			t.Fatal("a second call returned another id")
		}
		if len(id) > 160 || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Fatalf("%q is not safe in a header", id)
		}
	})
	long := domain.DedupID("page", "7", "msg", strings.Repeat("x", 500))
	other := domain.DedupID("page", "7", "msg", strings.Repeat("x", 501))
	if len(long) != len(other) || long == other || !strings.HasPrefix(long, "sha256:") {
		t.Errorf("got %s and %s", long, other)
	}
}

func TestToken(t *testing.T) {
	for page, want := range map[domain.PageID]string{
		"": "0", "0": "0", "17841400008460056": "17841400008460056", "PAGE_ID-1": "PAGE_ID-1",
	} {
		if got := page.Token(); got != want {
			t.Errorf("%q: got %s, want %s", page, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		token := domain.PageID(rapid.String().Draw(t, "page")).Token()
		if token == "" || len(token) > 64 || strings.ContainsAny(token, ".*> \t\r\n") {
			t.Fatalf("%q is not a subject token", token)
		}
	})
}

func TestTypes(t *testing.T) {
	if n := len(domain.Types()); n != 32 {
		t.Errorf("the contract has 32 types, not %d", n)
	}
	seen := map[domain.Type]bool{}
	for _, typ := range domain.Types() {
		if seen[typ] || !typ.Known() || typ.Noun()+"."+typ.Verb() != string(typ) {
			t.Errorf("%s", typ)
		}
		seen[typ] = true
	}
	if domain.Type("message.unheard_of").Known() {
		t.Error("Known is true for a type that is not in the list")
	}
	for typ, inbound := range map[domain.Type]bool{
		domain.MessageReceived: true, domain.DeliveryUnreadable: true,
		domain.PageConnected: false, domain.ContactErased: false,
	} {
		if typ.Inbound() != inbound {
			t.Errorf("%s: inbound %v", typ, typ.Inbound())
		}
	}
}
