package conversations

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
)

// text returns any bytes: text from outside may not be valid UTF-8.
func text(t *rapid.T) string {
	return string(rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(t, "text"))
}

// fill gives every field of a struct a value that a fold could produce, or leaves it
// empty.
func fill(t *rapid.T, v reflect.Value, words func(*rapid.T) string) {
	for i := range v.NumField() {
		f := v.Field(i)
		if f.Kind() != reflect.Struct && rapid.IntRange(0, 2).Draw(t, "empty") == 0 {
			continue
		}
		switch x := f.Addr().Interface().(type) {
		case *time.Time:
			if n := rapid.Int64Range(-1, projections.MaxMillis).Draw(t, "time"); n >= 0 {
				*x = projections.FromMillis(n)
			}
			continue
		case *recent:
			*x = rapid.SliceOfN(rapid.Byte(), 1, 16).Draw(t, "bytes")
			continue
		case *[]byte:
			*x = rapid.SliceOfN(rapid.Byte(), 1, 16).Draw(t, "bytes")
			continue
		case *[]uint64:
			*x = rapid.SliceOfN(rapid.Uint64(), 1, maxEvents).Draw(t, "numbers")
			continue
		case *[]string:
			*x = []string{rapid.String().Draw(t, "text")}
			continue
		case *[]domain.Attachment:
			*x = []domain.Attachment{{Type: rapid.String().Draw(t, "text")}}
			continue
		case *[]Edit:
			*x = []Edit{{Num: 1, Text: rapid.String().Draw(t, "text")}}
			continue
		case *map[string]Reaction:
			*x = map[string]Reaction{rapid.String().Draw(t, "text"): {Seq: 1}}
			continue
		case *map[string][]string:
			*x = map[string][]string{rapid.String().Draw(t, "text"): {"a"}}
			continue
		}
		switch f.Kind() {
		case reflect.String:
			f.SetString(words(t))
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Int64:
			f.SetInt(rapid.Int64Range(0, projections.MaxMillis).Draw(t, "number"))
		case reflect.Uint64:
			f.SetUint(rapid.Uint64().Draw(t, "number"))
		case reflect.Struct:
			fill(t, f, words)
		case reflect.Pointer:
			f.Set(reflect.New(f.Type().Elem()))
			fill(t, f.Elem(), words)
		default:
			require.Fail(t, "no value for the type", f.Type().String())
		}
	}
}

// TestRowsRoundTrip checks that every field is packed and unpacked. It fails for a new
// field that is not.
func TestRowsRoundTrip(t *testing.T) {
	words := func(t *rapid.T) string { return rapid.String().Draw(t, "text") }
	for _, newRow := range []func() store.Row{
		func() store.Row { return new(message) },
		func() store.Row { return new(conversation) },
		func() store.Row { return new(Counts) },
	} {
		rapid.Check(t, func(t *rapid.T) {
			row, read := newRow(), newRow()
			fill(t, reflect.ValueOf(row).Elem(), words)
			b, err := row.AppendBinary([]byte("before"))
			require.NoError(t, err)
			require.Equal(t, "before", string(b[:6]))
			b = b[6:]
			err = read.UnmarshalBinary(b)
			require.NoError(t, err)
			require.Equal(t, row, read)
			cut := rapid.IntRange(0, len(b)).Draw(t, "cut")
			if err := unpack(b[:cut], newRow(), "row"); err != nil {
				require.ErrorIs(t, err, store.ErrCorrupt)
			}
		})
	}
}

// TestRowEncodingIsStable checks that a row with invalid UTF-8 has the same bytes after
// it was read and written again.
func TestRowEncodingIsStable(t *testing.T) {
	for _, newRow := range []func() store.Row{
		func() store.Row { return new(message) },
		func() store.Row { return new(conversation) },
	} {
		rapid.Check(t, func(t *rapid.T) {
			row, read := newRow(), newRow()
			fill(t, reflect.ValueOf(row).Elem(), text)
			once, err := row.AppendBinary(nil)
			require.NoError(t, err)
			require.NoError(t, read.UnmarshalBinary(once))
			again, err := read.AppendBinary(nil)
			require.NoError(t, err)
			require.Equal(t, string(once), string(again))
		})
	}
}

func TestInvalidRowsAreCorrupt(t *testing.T) {
	for _, b := range []string{"", "\xff", "\x05abc", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"} {
		for _, row := range []store.Row{new(message), new(conversation), new(Counts)} {
			require.ErrorIs(t, unpack([]byte(b), row, "row"), store.ErrCorrupt, "%T of %q", row, b)
		}
	}
}

// unpack reads a packed row as the store does. Its errors do not quote the row.
func unpack(b []byte, row store.Row, what string) error {
	if err := row.UnmarshalBinary(b); err != nil {
		return fmt.Errorf("read %s of %d bytes: %w", what, len(b), store.ErrCorrupt)
	}
	return nil
}
