package messenger

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
)

// knownBodies returns deliveries of every kind: those of testdata, those that are next to the repository, and the
// examples of the tables.
func knownBodies(t testing.TB) [][]byte {
	t.Helper()
	var out [][]byte
	for _, glob := range []string{"testdata/*.json", "../../../shared/corpus/*/*.json", "../../../shared/cases/*.json"} {
		files, err := filepath.Glob(glob)
		require.NoError(t, err)
		if len(files) == 0 {
			t.Logf("there are no bodies in %s", glob)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			out = append(out, b,
				fmt.Appendf(nil, `{"object":"page","entry":[{"id":"1","time":1790000000,"messaging":[%s],"standby":[%[1]s]}]}`, b))
		}
	}
	for _, k := range Kinds() {
		out = append(out,
			fmt.Appendf(nil, `{"entry":[{"id":"1","time":1790000000,%q:[%s]}],"object":"page"}`, k.Channel, k.Example),
			fmt.Appendf(nil, `{"object":"instagram","entry":[{"changes":[{"field":%q,"value":%s}]}]}`, k.Fields[0], k.Example))
	}
	return out
}

// TestSplitEqualOfChangedBodies compares the two implementations with deliveries of every kind in which values are
// exchanged, left out and repeated. Fuzzing changes bytes, and seldom gets to another delivery by that.
func TestSplitEqualOfChangedBodies(t *testing.T) {
	bodies := slices.DeleteFunc(knownBodies(t), func(b []byte) bool { return len(b) > 4<<10 })
	values := []string{
		`null`, `[]`, `{}`, `1e3`, `-0`, `1.5`, `12345678901234567890123`, `"2026-09-21T13:33:20+0000"`,
		`"1790000000000"`, `" 17 "`,
		`true`, `""`, `"0"`, `"messages"`, `"entry"`, `"messaging"`, `"message"`, `"t\u0069me"`,
		`"17841400008460056"`, `"a\nb"`, `"\/"`,
		`"\u00e4\ud83d\ude00"`, "\"\xff\"", `"\ud800"`, `"\u2028"`, "\"\u2028\"", "\"\ufffd\"", `"\""`,
		"\"\n\"", "01", "{", "\"", "tru", `"\x"`, // not JSON
	}
	odd := len(values)
	for _, b := range bodies {
		d, _ := domain.ParseJSON(b)
		for _, n := range d.Nodes {
			values = append(values, string(b[n.Start:n.End]))
		}
		d.Release()
	}
	random := rand.New(rand.NewPCG(17, 0))
	for range 5000 {
		b := bodies[random.IntN(len(bodies))]
		for range 1 + random.IntN(4) {
			d, ok := domain.ParseJSON(b)
			if !ok || len(d.Nodes) == 0 {
				break
			}
			n := d.Nodes[random.IntN(len(d.Nodes))]
			d.Release()
			before, this, after := b[:n.Start], b[n.Start:n.End], b[n.End:]
			other := values[random.IntN(len(values))]
			if random.IntN(3) == 0 {
				other = values[random.IntN(odd)]
			}
			var changed []byte
			switch random.IntN(8) {
			case 0:
				changed = fmt.Appendf(nil, "%s%s,%s%s", before, this, this, after)
			case 1:
				changed = fmt.Appendf(nil, "%s%s", before, after)
			case 2: // a member with the same value
				changed = fmt.Appendf(nil, "%s%s:%s%s", before, other, this, after)
			case 3:
				changed = fmt.Appendf(nil, "%s \n\t%s", before, b[n.Start:])
			default:
				changed = fmt.Appendf(nil, "%s%s%s", before, other, after)
			}
			if domain.ValidJSON(changed) || random.IntN(20) == 0 {
				b = changed
			}
		}
		requireEqual(t, b, random.IntN(8))
	}
}

// FuzzSplitEqual checks that Split returns what its first implementation did: the same events, with the same ids
// and bytes, in the same order, for any body.
func FuzzSplitEqual(f *testing.F) {
	for _, b := range knownBodies(f) {
		f.Add(b, 0)
		f.Add(b, 5)
	}
	for _, s := range []string{
		``, ` `, `null`, `[]`, `{}`, `{"entry":[]}`, `{"entry":{}}`, `{"entry":[],"entry":7}`, `{"entry":[1,]}`,
		`{"entry":[,1]}`, `{"entry":[1}`,
		`{"entry":[] "a":1}`, `{"entry":[],}`, `{,"entry":[]}`, `{"entry"}`, `{"entry":}`, `{"entry":[]} {}`,
		`{"entry":[]}]`, "\ufeff{\"entry\":[]}",
		`{"entry":[01,-,1.,.5,1e,1e+,-0,-0.0e-0,1E5,tru,nul,falsey]}`, `{"entry":[-0,-0.0e-0,1E5]}`,
		"{\"entry\":[\"\t\"]}", "{\"entry\":[\"\x7f\"]}",
		`{"entry":["\u12"]}`, `{"entry":["\x"]}`, `{"entry":["\`, `{"entry":["\"]}`,
		`{"entry":["\u00e4\/\b\f\n\r\t\"\\"]}`, `{"entry":["\u00e`,
		`{"entry":[{"messaging":{"a":1},"standby":[null]},7]}`,
		`{"entry":[{"id":"1","messaging":[1],"messaging":[2]}],"entry":[]}`,
		`{"\u0065ntry":[{"i\u0064":"1","t\u0069me":5,"time":"x","messaging":[{"message":{},"message":[]},{"message":[],` +
			`"m\u0065ssage":{"mid":"a"}}]}]}`,
		`{"object":7,"entry":[{"id":1.5e3,"changes":[` +
			`{"field":"messages","value":{"sender":{"user_ref":"u"},"message":{"mid":"m"}}}]}]}`,
		"{\"entry\":[{\"id\":\"\xff\",\"standby\":[{\"new\":\"\\ud800\"},{\"m\\u0065ssage\":{\"mid\":\"\\ud83d\"}}]}]}",
		`{"entry":[{"time":"9999-12-31T23:59:59-1200","messaging":[` +
			`{"timestamp":99999999999999999,"read":{"watermark":-1}}]}]}`,
		"{\"entry\":[{\"x\":\"\u2028\\u2029\\b\\f\\u0000\u007f\u20ac\xc3\x28\",\"b\":[],\"a\":{},\"tim\\u0065\":1}]}",
		`{"entry":[{"time":17,"messaging":[{"c":["\u2028",{"b":1,"a":"\ufffd"}]},` +
			`{"c":["\u2028",{"b":1,"a":"x"}]},{"c":{"d":1,"d":2}}]}]}`,
		`{"entry":[{"time":17,"x":[1, "a" ,{ "y":1,"y":2 }] }]}`,
		`{"object":"instagram","entry":[{"id":"7","messaging":[` +
			`{"sender":{"id":"17841400008460056"},"recipient":{"id":"9"},"read":{"mid":"m"}}]}]}`,
	} {
		f.Add([]byte(s), 0)
		f.Add([]byte(s), 1)
	}
	for _, depth := range []int{domain.MaxDepth - 1, domain.MaxDepth, domain.MaxDepth + 1} {
		for _, around := range []string{
			`{"raw":%s}`, `{"entry":[],"raw":%s}`, `{"entry":[{"raw":%s}]}`, `{"entry":[{"messaging":[%s]}]}`,
		} {
			levels := depth - strings.Count(around, "[") - strings.Count(around, "{") + strings.Count(around, "[]")
			f.Add(fmt.Appendf(nil, around, strings.Repeat("[", levels)+strings.Repeat("]", levels)), 0)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, maxItems int) {
		requireEqual(t, body, maxItems)
		if json.Valid(body) {
			v := parsed(body)
			requireSame(t, v.raw(), v, 0)
		}
	})
}

// requireEqual compares what the two implementations make of a body.
func requireEqual(t *testing.T, body []byte, maxItems int) {
	t.Helper()
	linked := func(domain.PageID) string { return "17841400008460056" }
	for _, account := range []func(domain.PageID) string{nil, linked} {
		o := Options{App: "main", AppID: "5", MaxItems: maxItems, Account: account}
		want, got := oldSplit(body, o), Split(body, o)
		require.Equal(t, want, got, "%q", body)
		for i := range want.Events {
			b, err := want.Events[i].Data.Encode()
			require.NoError(t, err)
			again, err := got.Events[i].Data.Encode()
			require.NoError(t, err)
			require.Equal(t, string(b), string(again), "%q", body)
		}
	}
	require.Equal(t, oldIsDelivery(body), IsDelivery(body), "%q", body)
}

// requireSame checks that the two implementations read the same of a value and all that it contains. What the
// functions of the tables make of an item depends on that alone.
func requireSame(t *testing.T, raw json.RawMessage, v value, depth int) {
	t.Helper()
	if depth == 32 {
		return // it would take long for a body that is nested as deeply as possible
	}
	require.Equal(t, raw, v.raw())
	require.Equal(t, oldFirstByte(raw), v.first())
	text, isText := oldAsText(raw)
	got, ok := asText(v)
	require.Equal(t, isText, ok)
	require.Equal(t, text, got)
	require.Equal(t, oldAsID(raw), asID(v))
	require.Equal(t, oldAsIDs(raw), asIDs(v))
	require.Equal(t, oldAsMillis(raw), asMillis(v))
	if depth < 8 { // each level reads the others again
		require.Equal(t, oldHash(raw), hash(v))
		require.Equal(t, oldHash(oldWithoutTime(raw)), hashWithout(v, "time"))
	}
	list, _ := oldAsList(raw)
	for e := v.elements(); e.next(); list = list[1:] {
		requireSame(t, list[0], e.value, depth+1)
	}
	require.Empty(t, list)
	object := oldAsObject(raw)
	inOrder := oldSorted(object)
	for i, m := range sorted(v) {
		require.Equal(t, inOrder[i].value, m.raw())
	}
	rest := object
	for m := v.members(); m.next(); rest = rest[1:] {
		name := string(rest[0].name)
		require.Equal(t, name, string(m.name()))
		require.Equal(t, object.get(name), v.get(name).raw())
		require.Equal(t, object.count(name), v.count(name))
		require.Equal(t, object.object(name) != nil, v.object(name).exists())
		require.Equal(t, object.text(name), v.text(name))
		require.Equal(t, object.payload(name), v.payload(name))
		require.Equal(t, object.is(name), v.is(name))
		require.Equal(t, object.float(name), v.float(name))
		require.Equal(t, object.number(name), v.number(name))
		requireSame(t, rest[0].value, m.value, depth+1)
	}
	require.Empty(t, rest)
}
