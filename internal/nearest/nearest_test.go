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
