package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/datadir"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/domain/seal"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
)

// Check reads every file that a server with this configuration reads at its start, and returns all
// problems with which it would not start as one error. Files that the server creates may be missing.
// Nothing is created or changed.
func Check(o Options) error {
	cfg := o.Config
	problems := []error{cfg.Validate(), cfg.RequireApps()}
	add := func(key string, err error) {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, fmt.Errorf("%s: %w", key, err))
		}
	}
	for _, name := range []string{"FORMAT", "nats"} { // without them the directory is new, and Check would write to it
		if _, err := os.Stat(filepath.Join(cfg.Data.Dir, name)); err == nil {
			add("data.dir", datadir.Check(cfg.Data.Dir))
			break
		}
	}
	p := New(o)
	_, err := p.checkRestore()
	add("data.dir", err)
	add("keys.file", p.checkKeys())
	_, err = api.ReadToken(cfg.HTTP.TokenFile)
	add("http.token_file", err)
	_, err = api.ReadToken(cfg.ReadTokenFile())
	add("http.read_token_file", err)
	if cfg.Hooks.File != "" {
		if _, err := readHooks(cfg.Hooks.File); err != nil {
			problems = append(problems, err)
		}
	}
	if _, err := natsOptions(cfg.NATS, mainConnection); err != nil {
		problems = append(problems, err)
	}
	if cfg.NATS.CertFile != "" {
		if _, err := tls.LoadX509KeyPair(cfg.NATS.CertFile, cfg.NATS.KeyFile); err != nil {
			problems = append(problems, fmt.Errorf("nats.cert_file, nats.key_file: %w", err))
		}
	}
	return errors.Join(problems...)
}

// checkKeys reads the key file. It may be missing unless the embedded server has something that is sealed with its keys.
func (p *Program) checkKeys() error {
	_, err := seal.Load(p.cfg.Keys.File)
	if !errors.Is(err, fs.ErrNotExist) || p.cfg.NATS.URL != "" {
		return err
	}
	sealed, err := embedded.Has(p.natsDir(), connect.BucketOf(streams.Name), connect.IsSecret)
	if err == nil && sealed {
		_, _, err = seal.LoadOrCreate(p.cfg.Keys.File, true)
	}
	return err
}

// readHooks reads and checks the file of the outgoing webhooks.
func readHooks(file string) ([]hooks.Endpoint, error) {
	endpoints, err := hooks.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read hooks.file: %w", err)
	}
	if err := hooks.Check(endpoints); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return endpoints, nil
}

// Warnings returns what is valid but dangerous in a configuration, one text each: the warnings of
// [config.Config.Warnings], and files with secrets that other users of this machine can read; see exposed.
func Warnings(o Options) []string {
	cfg := o.Config
	out := cfg.Warnings()
	if _, err := os.Stat(cfg.Keys.File); cfg.NATS.URL != "" && errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(New(o).usedPath()); err == nil {
			out = append(out, fmt.Sprintf("keys.file: %s is missing, and serve does not start without it if a page is "+
				"connected: restore it from your backup", cfg.Keys.File))
		}
	}
	files := [][2]string{
		{"hooks.file", cfg.Hooks.File},
		{"nats.creds", cfg.NATS.Creds},
		{"nats.key_file", cfg.NATS.KeyFile},
		{"nats.nkey_file", cfg.NATS.NKeyFile},
		{"nats.password_file", cfg.NATS.PasswordFile},
		{"nats.client_key_file", cfg.NATS.ClientKeyFile},
	}
	if hasSecrets(cfg) {
		files = append(files, [2]string{"the configuration file", o.ConfigFile})
	}
	for i, app := range cfg.Apps {
		for j, file := range app.SecretFiles {
			files = append(files, [2]string{fmt.Sprintf("apps[%d].secret_files[%d]", i, j), file})
		}
		files = append(files, [2]string{fmt.Sprintf("apps[%d].verify_token_file", i), app.VerifyTokenFile})
	}
	for _, f := range files {
		info, err := os.Stat(f[1])
		if err == nil && exposed(info) {
			out = append(out, fmt.Sprintf("%s: %s has secrets and mode %04o, so that other users can read it: run: chmod 600 %s",
				f[0], f[1], info.Mode().Perm(), f[1]))
		}
	}
	return out
}

// exposed reports whether users that need not read a file with secrets can do so, or can change it. A
// group may read it if this process is of that group, or if root has given the file to it: so the packages
// install their configuration.
func exposed(info fs.FileInfo) bool {
	switch mode := info.Mode().Perm(); {
	case runtime.GOOS == "windows" || mode&0o077 == 0:
		return false
	case mode&0o037 != 0:
		return true
	default:
		return !ofOurGroup(info)
	}
}

// hasSecrets reports whether the configuration file may contain secrets, because they are not only in
// files of their own.
func hasSecrets(cfg config.Config) bool {
	if strings.Contains(string(cfg.NATS.URL), "@") {
		return true
	}
	for _, app := range cfg.Apps {
		if len(app.Secrets) > len(app.SecretFiles) || app.VerifyTokenFile == "" {
			return true
		}
	}
	return false
}
