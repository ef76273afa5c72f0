package cli

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/pagestream/pagestream/projections/comments"
)

func TestTreeOfComments(t *testing.T) {
	for name, c := range map[string]struct{ comments, want []string }{
		"no comments":         {nil, nil},
		"answers":             {[]string{"1", "2", "3<1", "4<3", "5<1"}, []string{"0 1", "1 3", "2 4", "1 5", "0 2"}},
		"an unknown parent":   {[]string{"1<9", "2<1"}, []string{"0 1", "1 2"}},
		"an answer to itself": {[]string{"1<1", "2<1"}, []string{"0 1", "1 2"}},
		"a circle":            {[]string{"1<2", "2<1", "3"}, []string{"0 3", "0 1", "1 2"}},
	} {
		t.Run(name, func(t *testing.T) {
			var list []comments.Comment
			for _, v := range c.comments {
				list = append(list, comments.Comment{ID: v[:1], Parent: v[min(2, len(v)):]})
			}
			var got []string
			for _, n := range tree(list) {
				got = append(got, fmt.Sprint(n.depth, " ", n.ID))
			}
			assert.Equal(t, c.want, got)
		})
	}
}
