package meta

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams"
)

func TestSelection(t *testing.T) {
	acme, nobody := pages.Ownership{Page: "100", Company: "acme"}, pages.Ownership{}
	named := []domain.Type{domain.PageConnected, domain.MessageRead, domain.ForeignReceived}
	for _, c := range []struct {
		name  string
		s     Selection
		page  domain.PageID
		typ   domain.Type
		owner pages.Ownership
		want  bool
	}{
		{"nothing", Selection{}, "100", domain.MessageRead, nobody, false},
		{"nobody's event of no company", Select(false, nil, "", nil), "100", domain.MessageRead, nobody, false},
		{"all", Select(true, nil, "", nil), "100", domain.MessageRead, nobody, true},
		{"all, of a page's connection", Select(true, nil, "", nil), "100", domain.PageConnected, acme, false},
		{"all, of a subscription", Select(true, nil, "", nil), "100", domain.SubscriptionFailed, acme, false},
		{"all, of another app", Select(true, nil, "", nil), "100", domain.ForeignReceived, acme, false},
		{"all, of a contact", Select(true, nil, "", nil), "100", domain.ContactErased, acme, true},
		{"a named type", Select(true, nil, "", named), "100", domain.PageConnected, nobody, true},
		{"a type that is not named", Select(true, nil, "", named), "100", domain.MessageReceived, nobody, false},
		{"another app's, named", Select(true, nil, "", named), "100", domain.ForeignReceived, acme, false},
		{"a page", Select(false, []domain.PageID{"300", "100", "200"}, "", nil), "100", domain.MessageRead, nobody, true},
		{"another page", Select(false, []domain.PageID{"300", "100"}, "", nil), "10", domain.MessageRead, acme, false},
		{"a company", Select(false, nil, "acme", nil), "100", domain.MessageRead, acme, true},
		{"a company, another's", Select(false, nil, "beta", nil), "100", domain.MessageRead, acme, false},
		{"a company, nobody's", Select(false, nil, "acme", nil), "100", domain.MessageRead, nobody, false},
		{"a page besides a company", Select(false, []domain.PageID{"9"}, "acme", nil), "9", domain.MessageRead, nobody, true},
	} {
		e := streams.Stored{Event: domain.Event{Page: c.page, Type: c.typ}}
		assert.Equal(t, c.want, c.s.Wants(e, c.owner), c.name)
	}
	assert.True(t, Select(false, nil, "acme", nil).ByOwner())
	assert.False(t, Select(false, []domain.PageID{"1"}, "", nil).ByOwner())
	assert.True(t, Selectable(domain.PageConnected))
	assert.False(t, Selectable(domain.ForeignReceived))
	assert.False(t, Selectable("mail.received"))
}
