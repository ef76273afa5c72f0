package api

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

func TestSchemas(t *testing.T) {
	base := serveAPI(t, &fakeOperator{})
	resp, body := call(t, http.MethodGet, base+"/api/v1/schemas", "")
	assert.Equal(t, http.StatusOK, resp.StatusCode)
	assert.Contains(t, body, `{"items":["message.received",`)

	resp, body = call(t, http.MethodGet, base+"/api/v1/schemas/order.received", "")
	want, err := streams.Schema(domain.OrderReceived)
	require.NoError(t, err)
	assert.Equal(t, string(want), body)
	assert.Equal(t, "application/schema+json", resp.Header.Get("Content-Type"))

	resp, body = call(t, http.MethodGet, base+"/api/v1/schemas/message.pinned", "")
	assert.Equal(t, http.StatusNotFound, resp.StatusCode)
	assert.Contains(t, body, "no such event type")
}
