package meta_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

// The table has every code and subcode that Meta documents for the calls of package
// graph, with its HTTP status. The class does not depend on the status.
func TestClasses(t *testing.T) {
	type row struct {
		status, code, sub int
		class             meta.Class
	}
	rows := []row{
		{400, 190, 0, meta.TokenDead},
		{400, 190, 458, meta.TokenDead},
		{401, 190, 459, meta.TokenDead},
		{400, 190, 460, meta.TokenDead},
		{400, 190, 463, meta.TokenDead},
		{400, 190, 464, meta.TokenDead},
		{400, 190, 467, meta.TokenDead},
		{400, 190, 490, meta.TokenDead},
		{400, 190, 492, meta.TokenDead},
		{400, 190, 12345, meta.TokenDead},
		{500, 190, 460, meta.TokenDead},
		{400, 102, 0, meta.TokenDead},
		{400, 102, 463, meta.TokenDead},
		{400, 104, 0, meta.TokenDead},
		{403, 3, 0, meta.Permission},
		{403, 10, 0, meta.Permission},
		{403, 10, 460, meta.Permission},
		{403, 210, 460, meta.Permission},
		{400, 4, 0, meta.Throttled},
		{400, 17, 0, meta.Throttled},
		{400, 32, 0, meta.Throttled},
		{400, 613, 0, meta.Throttled},
		{500, 80006, 0, meta.Throttled},
		{400, 100, 33, meta.Gone},
		{404, 803, 0, meta.Gone},
		{400, 100, 0, meta.Parameter},
		{400, 100, 36009, meta.Parameter},
		{400, 100, 2018001, meta.PersonUnreachable},
		{400, 551, 0, meta.PersonUnreachable},
		{400, 551, 1545041, meta.PersonUnreachable},
		{403, 200, 1545041, meta.PersonUnreachable},
		{403, 10, 2018108, meta.PersonUnreachable},
		{403, 230, 0, meta.PersonUnreachable},
		{400, 2018218, 0, meta.NoProfile},
		{400, 100, 2018218, meta.NoProfile},
		{400, 4711, 2018218, meta.NoProfile},
		{403, 10, 2018278, meta.WindowClosed},
		{403, 10, 2534022, meta.WindowClosed},
		{403, 10, 1893063, meta.Restricted},
		{400, 368, 0, meta.Restricted},
		{500, 1, 0, meta.Transient},
		{400, 1, 0, meta.Transient},
		{400, 2, 0, meta.Transient},
		{400, 2, 99, meta.Transient},
	}
	for code := 80000; code <= 80014; code++ {
		rows = append(rows, row{400, code, 0, meta.Throttled})
	}
	for code := 200; code <= 299; code++ {
		if code != 230 {
			rows = append(rows, row{403, code, 0, meta.Permission})
		}
	}
	// Codes next to known ones are not classified, nor are subcodes without their code.
	for _, code := range []int{
		-1, 5, 9, 11, 16, 18, 31, 33, 99, 101, 103, 105, 189, 191, 199, 300, 367, 369, 550, 552, 612, 614, 802, 804,
		2200, 4711, 36009, 79999, 80015, 2018001, 2018217, 2018219, 2018278,
	} {
		rows = append(rows, row{400, code, 0, meta.Unclassified}, row{400, code, 460, meta.Unclassified})
	}
	for _, sub := range []int{0, 460, 2018278} {
		rows = append(rows, row{400, 0, sub, meta.Unclassified})
	}
	for _, c := range rows {
		name := fmt.Sprintf("%d/%d", c.code, c.sub)
		assert.Equal(t, c.class, meta.Classify(c.code, c.sub), name)
		assert.Equal(t, c.class, meta.Outcome{Code: c.code, Subcode: c.sub}.Class(), name)
		for _, status := range []int{c.status, http.StatusOK, http.StatusBadRequest} {
			e := &meta.Error{Status: status, Code: c.code, Subcode: c.sub, Message: "(#190) rate limit, permission, window"}
			err := fmt.Errorf("get: %w", e)
			assert.Equal(t, c.class, e.Class(), "%s, status %d", name, status)
			assert.Equal(t, c.class, meta.ClassOf(err), name)
			assert.Equal(t, c.class == meta.TokenDead, errors.Is(err, meta.ErrTokenDead), name)
			require.NotErrorIs(t, err, meta.ErrNotConnected, name)
			assert.Equal(t, c.class == meta.Transient || c.class == meta.Throttled, e.Temporary(), name)
			code, sub, words := meta.Explain(err)
			assert.Equal(t, []any{c.code, c.sub, e.Message}, []any{code, sub, words})
		}
	}
}

// The status determines the class if there is no known code.
func TestClassByStatus(t *testing.T) {
	for _, c := range []struct {
		status, code, sub int
		class             meta.Class
	}{
		{429, 0, 0, meta.Throttled},
		{429, 0, 7, meta.Throttled},
		{429, 4711, 0, meta.Unclassified},
		{429, 190, 0, meta.TokenDead},
		{500, 0, 0, meta.Transient},
		{502, 0, 0, meta.Transient},
		{503, 0, 0, meta.Transient},
		{503, 4711, 0, meta.Transient},
		{503, 100, 0, meta.Parameter},
		{400, 0, 0, meta.Unclassified},
		{302, 0, 0, meta.Unclassified},
	} {
		e := &meta.Error{Status: c.status, Code: c.code, Subcode: c.sub}
		assert.Equal(t, c.class, e.Class(), "%+v", c)
		assert.Equal(t, c.class == meta.Transient || c.class == meta.Throttled, e.Temporary(), "%+v", c)
	}
	e := &meta.Error{Status: 400, Code: 4711, Transient: true}
	assert.True(t, e.Temporary(), "Graph's own word")
	assert.Equal(t, meta.Unclassified, e.Class())
	assert.Equal(t, meta.Unclassified, meta.ClassOf(errors.New("graph did not answer")))
	assert.Equal(t, meta.Unclassified, meta.ClassOf(nil))
}

func TestTokenCause(t *testing.T) {
	for sub, want := range map[int][2]string{
		0:     {"invalid", ""},
		12345: {"invalid", ""},
		458:   {"app_removed", "its admin has removed the app"},
		459:   {"checkpoint", "its admin has to pass a checkpoint at www.facebook.com first"},
		460:   {"password_changed", "its admin has changed the password"},
		463:   {"expired", "it has expired"},
		464:   {"unconfirmed_user", "its admin's account is not confirmed"},
		467:   {"logged_out", "its admin has logged out of the session"},
		490:   {"checkpoint", "its admin has to pass a checkpoint at www.facebook.com first"},
		492:   {"role_lost", "its admin has lost the role on the page"},
	} {
		word, sentence := meta.TokenCause(sub)
		assert.Equal(t, want, [2]string{word, sentence}, sub)
	}
	word, _ := meta.TokenCause(meta.RoleLost)
	assert.Equal(t, "role_lost", word)
}

func TestExplain(t *testing.T) {
	refused := &meta.Error{Status: 400, Code: 190, Subcode: 460, Message: "changed", FBTrace: "EJplcsCHuLu"}
	code, sub, words := meta.Explain(fmt.Errorf("get: %w", refused))
	assert.Equal(t, []any{190, 460, "changed"}, []any{code, sub, words})
	assert.Equal(t, "graph refused (status 400, code 190/460): changed [fbtrace EJplcsCHuLu]", refused.Error())
	assert.Same(t, refused, meta.Refused(fmt.Errorf("get: %w", refused)))

	code, sub, words = meta.Explain(&meta.Error{Status: 400, Code: 4})
	assert.Equal(
		t, []any{4, 0, "graph refused (status 400, code 4)"}, []any{code, sub, words}, "all that there is to say",
	)

	code, sub, words = meta.Explain(errors.New("graph did not answer"))
	assert.Equal(t, []any{0, 0, "graph did not answer"}, []any{code, sub, words})
	assert.Nil(t, meta.Refused(errors.New("graph did not answer")))
	assert.Nil(t, meta.Refused(nil))
}

// waits is an error of another type that has a RetryAfter method.
type waits time.Duration

func (waits) Error() string               { return "wait" }
func (w waits) RetryAfter() time.Duration { return time.Duration(w) }

func TestRetryAfter(t *testing.T) {
	held := &meta.Error{Status: 429, Held: true, After: 90 * time.Second}
	assert.Equal(t, 90*time.Second, meta.RetryAfter(fmt.Errorf("get: %w", held)))
	assert.Equal(t, "call not made: rate limit reached for 1m30s more", held.Error())
	assert.Equal(t, meta.Throttled, held.Class())
	assert.Equal(t, time.Minute, meta.RetryAfter(fmt.Errorf("get: %w", waits(time.Minute))))
	assert.Zero(t, meta.RetryAfter(&meta.Error{Status: 400, Code: 190}))
	assert.Zero(t, meta.RetryAfter(errors.New("graph did not answer")))
	assert.Zero(t, meta.RetryAfter(nil))
}

func TestErrorsAreJSONSafe(t *testing.T) {
	b, err := json.Marshal(&meta.Error{Code: 190, Message: "x"})
	require.NoError(t, err)
	assert.Contains(t, string(b), "190")
}
