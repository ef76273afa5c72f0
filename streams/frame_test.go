package streams

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

func FuzzDecodeFrame(f *testing.F) {
	whole := frame{seq: 7, at: time.Unix(5, 6).UTC(), msg: &nats.Msg{
		Subject: "pagestream.7.message.received", Header: nats.Header{HeaderID: {"a"}, HeaderTime: {""}}, Data: []byte("{}"),
	}}
	f.Add(appendFrame(nil, whole))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decodeFrame(7, b)
		if err != nil {
			require.ErrorIs(t, err, ErrMalformed)
			return
		}
		again, err := decodeFrame(7, appendFrame(nil, got))
		require.NoError(t, err)
		require.Equal(t, got, again)
	})
}
