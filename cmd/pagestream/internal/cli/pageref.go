package cli

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/internal/nearest"
	"github.com/pagestream/pagestream/projections/conversations"
)

// PageRef is a page that a command line names: by its id, or by its name in any case. An argument or flag of this
// type, or a list of it, has the id when the command runs. With the tag "stored" the command is about stored events: it
// takes as well the id of a page that only the stream has, as after pages forget.
type PageRef string

// pageIDs returns the pages as the API takes them.
func pageIDs(refs []PageRef) []domain.PageID {
	var out []domain.PageID
	for _, r := range refs {
		out = append(out, domain.PageID(r))
	}
	return out
}

// pageTexts returns the pages as the values of a query.
func pageTexts(refs []PageRef) []string {
	var out []string
	for _, r := range refs {
		out = append(out, string(r))
	}
	return out
}

// resolve replaces the pages of a parsed command line by their ids. Here and nowhere else a name becomes an id, and
// an unknown page an error.
func (c *CLI) resolve(run *kong.Context) error {
	var values []*kong.Value
	if node := run.Selected(); node != nil {
		values = append(values, node.Positional...)
	}
	for _, f := range run.Flags() {
		values = append(values, f.Value)
	}
	for _, v := range values {
		stored := v.Tag.Has("stored")
		switch at := v.Target.Addr().Interface().(type) {
		case *PageRef:
			if err := c.resolvePage(at, stored); err != nil {
				return err
			}
		case *[]PageRef:
			for i := range *at {
				if err := c.resolvePage(&(*at)[i], stored); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (c *CLI) resolvePage(at *PageRef, stored bool) error {
	if *at == "" { // not given, or an empty value of a list, which the server refuses
		return nil
	}
	id, err := c.findPage(string(*at), stored)
	*at = PageRef(id)
	return err
}

// isNumber reports whether a text has digits only, as Meta's ids have.
func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// findPage returns the id of the page with that id or name, as of the stream's head. Digits are an id and never a name:
// a page can't be taken for another one whose name is its id. With stored, the id of a page that only the stream has is
// found too. The error for an ambiguous name lists the ids of its pages, that for an unknown one pages with similar
// names.
func (c *CLI) findPage(given string, stored bool) (string, error) {
	if given == string(domain.NoPage) {
		return given, nil
	}
	if isNumber(given) {
		if _, err := get[operate.Page](c, pagePath(given), nil); !isNotFound(err) {
			return given, err
		}
	}
	list, err := c.knownPages()
	if err != nil {
		return "", err
	}
	var named []operate.Page
	for _, p := range list {
		if string(p.ID) == given || p.Instagram == given {
			return given, nil
		}
		if p.Name != "" && !isNumber(given) && strings.EqualFold(p.Name, given) {
			named = append(named, p)
		}
	}
	switch len(named) {
	case 0:
		if stored && isNumber(given) {
			events, err := collect[eventLine](c, eventsPath, url.Values{"page": {given}}, 1)
			if len(events) > 0 || err != nil && !isStatus(err, http.StatusBadRequest) { // that is an unknown page
				return given, err
			}
		}
		return "", unknownPage(given, list)
	case 1:
		return string(named[0].ID), nil
	}
	var which []string
	for _, p := range named {
		one := string(p.ID)
		if p.Company != "" {
			one += " (" + inLine(p.Company) + ")"
		}
		which = append(which, one)
	}
	return "", fmt.Errorf("%d pages have the name %q; give the id of one: %s", len(named), given, strings.Join(which, ", "))
}

// knownPages lists all pages, as of the stream's head.
func (c *CLI) knownPages() ([]operate.Page, error) {
	query := url.Values{}
	// A page whose first event was stored just now is not unknown. A company's token can't read the status; its pages
	// were connected before.
	if s, err := get[operate.Status](c, "/api/v1/status", nil); err == nil && s.Stream.LastSeq > 0 {
		query.Set("min_seq", strconv.FormatUint(s.Stream.LastSeq, 10))
	}
	return collect[operate.Page](c, pagesPath, query, 0)
}

func unknownPage(given string, list []operate.Page) error {
	names := map[string]string{}
	for _, p := range list {
		names[string(p.ID)] = p.Name
	}
	return fmt.Errorf("there is no page %q%s; type: pagestream pages list", given, near(given, names))
}

// maxNear is how many similar names an error has.
const maxNear = 3

// near returns the names, by id, that are similar to what was given, for the end of an error; "" if there are none.
func near(given string, names map[string]string) string {
	var texts, out []string
	for _, id := range slices.Sorted(maps.Keys(names)) {
		texts = append(texts, id)
		if names[id] != "" {
			texts = append(texts, names[id])
		}
	}
	slices.Sort(texts)
	for _, text := range nearest.Names(given, slices.Compact(texts), maxNear) {
		for _, id := range slices.Sorted(maps.Keys(names)) {
			one := strings.TrimSpace(inLine(names[id]) + " (" + id + ")")
			if (text == id || text == names[id]) && !slices.Contains(out, one) {
				out = append(out, one)
			}
		}
	}
	if len(out) == 0 {
		return ""
	}
	return "; near: " + strings.Join(out[:min(maxNear, len(out))], ", ")
}

// nearContacts is how many of a page's conversations are searched for a similar contact, the latest first.
const nearContacts = 2000

// knownContact returns an error with similar contacts if the page never had a conversation with the contact. One that
// was erased is known. Commands call it when they have found nothing.
func (c *CLI) knownContact(page PageRef, contact string) error {
	_, err := get[conversations.Conversation](c, conversationPath(page, contact), nil)
	switch {
	case isGone(err):
		return nil
	case !isNotFound(err):
		return err
	}
	list, err := collect[conversations.Conversation](c, pagePath(page)+"/conversations", nil, nearContacts)
	if err != nil {
		return err
	}
	names := map[string]string{}
	for _, v := range list {
		names[string(v.Contact)] = v.Name
	}
	return fmt.Errorf("page %s has no contact %q%s; type: pagestream conversations list %s", page, contact,
		near(contact, names), page)
}

// orUnknown adds to an error about a contact that the contact is unknown, if it is.
func (c *CLI) orUnknown(err error, page PageRef, contact string) error {
	var r refusal
	if !errors.As(err, &r) || r.Status >= http.StatusInternalServerError {
		return err
	}
	if unknown := c.knownContact(page, contact); unknown != nil {
		return fmt.Errorf("%w; %w", err, unknown)
	}
	return err
}
