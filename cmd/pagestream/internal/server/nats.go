package server

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pagestream/pagestream/config"
)

// mainConnection is the part that the first connection is for. The other parts have connections of their own.
const mainConnection = "pagestream"

// Bounds of a connection. One that a server or the network has dropped without a word is noticed after three pings; the
// main one sooner, see leader. A server that is not there must not keep the others from being tried.
const (
	dialTimeout   = 2 * time.Second
	pingEvery     = 2 * time.Second
	reconnectWait = 250 * time.Millisecond
)

// natsOptions returns the options of a connection for a part of the program to an external server, from the files
// that the settings name. All files are read, and an error names the setting. The files of a user are read
// again at each reconnect, so that they may be replaced.
func natsOptions(n config.NATS, part string) ([]nats.Option, error) {
	switch {
	case n.Name != "" && part == mainConnection:
		part = n.Name
	case n.Name != "":
		part = n.Name + " " + part
	}
	opts := []nats.Option{
		nats.Name(part), nats.Timeout(dialTimeout), nats.PingInterval(pingEvery), nats.ReconnectWait(reconnectWait),
	}
	var errs []error
	add := func(setting string, o nats.Option, err error) {
		if err == nil {
			err = o(&nats.Options{}) // which reads the files of certificates
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", setting, err))
		}
		opts = append(opts, o)
	}
	if logins := slices.DeleteFunc([]string{n.Creds, n.NKeyFile, n.UserFile}, isEmpty); len(logins) > 1 {
		errs = append(errs, errors.New("nats.creds, nats.nkey_file, nats.user_file: a connection has one user: "+
			"set one of them"))
	}
	if n.Creds != "" {
		_, err := os.ReadFile(n.Creds)
		add("nats.creds", nats.UserCredentials(n.Creds), err)
	}
	if n.NKeyFile != "" {
		o, err := nats.NkeyOptionFromSeed(n.NKeyFile)
		add("nats.nkey_file", o, err)
	}
	if n.UserFile != "" {
		_, userErr := readWord(n.UserFile)
		_, passwordErr := readWord(n.PasswordFile)
		add("nats.user_file, nats.password_file", nats.UserInfoHandler(func() (string, string) {
			user, _ := readWord(n.UserFile) // the server refuses an empty one
			password, _ := readWord(n.PasswordFile)
			return user, password
		}), errors.Join(userErr, passwordErr))
	}
	if n.CAFile != "" {
		add("nats.ca_file", nats.RootCAs(n.CAFile), nil)
	}
	if n.ClientCertFile != "" {
		add("nats.client_cert_file, nats.client_key_file", nats.ClientCert(n.ClientCertFile, n.ClientKeyFile), nil)
	}
	return opts, errors.Join(errs...)
}

func isEmpty(s string) bool { return s == "" }

// readWord returns the text of a file without white space around it. It fails if there is none.
func readWord(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	if b = bytes.TrimSpace(b); len(b) == 0 {
		return "", fmt.Errorf("%s is empty", file)
	}
	return string(b), nil
}
