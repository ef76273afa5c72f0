package messenger_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain/messenger"
)

func TestMaxItems(t *testing.T) {
	items := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat(`1,`, n), ",") + "]" }
	for name, c := range map[string]struct {
		entries string
		items   int
	}{
		"none":                 {`{"id":"7"}`, 1},
		"the limit":            {`{"id":"7","messaging":` + items(10) + `}`, 10},
		"one more":             {`{"id":"7","messaging":` + items(11) + `}`, 11},
		"in several channels":  {`{"id":"7","messaging":` + items(6) + `,"standby" : [ 1 , {"a":[1]}, "x,]" ,4 ,5 ] }`, 11},
		"in several entries":   {`{"changes":` + items(6) + `},{"changed_fields":` + items(5) + `}`, 11},
		"entries without any":  {strings.TrimSuffix(strings.Repeat(`{},`, 11), ","), 11},
		"a channel of a value": {`{"messaging":` + items(10) + `,"standby":{"x":1}}`, 11},
		"null channels":        {`{"messaging":` + items(10) + `,"standby":null,"changes":[]}`, 10},
	} {
		t.Run(name, func(t *testing.T) {
			body := []byte(`{"object":"page","entry":[` + c.entries + `]}`)
			r := messenger.Split(body, messenger.Options{MaxItems: 10})
			require.Equal(t, c.items, r.Items)
			require.Equal(t, c.items > 10, r.TooMany)
			if !r.TooMany {
				require.Len(t, r.Events, c.items)
			} else {
				require.Empty(t, r.Events)
			}
			require.Len(t, messenger.Split(body, messenger.Options{}).Events, c.items, "without a limit")
		})
	}
}

func TestIsDelivery(t *testing.T) {
	for body, want := range map[string]bool{
		`{"object":"page","entry":[]}`:                  true,
		` {"entry":[{"id":"1"}],"object":"instagram"} `: true,
		`{"object":"page"}`:                             false,
		`{"entry":[]}`:                                  false,
		`{"object":1,"entry":[]}`:                       false,
		`{"object":"page","entry":{}}`:                  false,
		`[{"object":"page","entry":[]}]`:                false,
		`{"object":"page","entry":[]`:                   false,
		`<?php /* {"object":"page","entry":[]} */`:      false,
		``:                                     false,
		`null`:                                 false,
		`"{\"object\":\"page\",\"entry\":[]}"`: false,
		`{"object":"page","entry":[]}{"object":"page"}`:   false,
		`{"objects":"page","entries":[],"x":"object"}`:    false,
		`object=page&entry=` + strings.Repeat("x", 10000): false,
	} {
		require.Equal(t, want, messenger.IsDelivery([]byte(body)), "%.60s", body)
	}
}
