package nearest_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/pagestream/pagestream/internal/nearest"
)

func TestName(t *testing.T) {
	candidates := []string{"page", "type", "min_seq"}
	for name, want := range map[string]string{
		"pages": "page", "Page": "page", "tpye": "type", "min-seq": "min_seq", "MIN.SEQ": "min_seq", "company": "",
		strings.Repeat("page", 100): "",
	} {
		assert.Equal(t, want, nearest.Name(name, candidates), name)
	}
	assert.Empty(t, nearest.Name("page", nil))
}

func TestNames(t *testing.T) {
	candidates := []string{"Corner Bakery", "Harbour Bikes", "Corner Shop", "Harbor Bikes", "Zoë Öberg", "900"}
	for name, want := range map[string][]string{
		"corner":        {"Corner Bakery", "Corner Shop"},
		"cornr bakery":  {"Corner Bakery"},
		"harbour bikes": {"Harbour Bikes", "Harbor Bikes"},
		"zoe oberg":     {"Zoë Öberg"},
		"nobody at all": nil,
		"90":            {"900"},
	} {
		assert.Equal(t, want, nearest.Names(name, candidates, 2), name)
	}
}
