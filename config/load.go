package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"
)

// Errors of [Load] and [Config.Validate].
var (
	// ErrInvalid is returned when a setting is unknown, unreadable or out of
	// bounds. The error's text has one line per problem and never a secret.
	ErrInvalid = errors.New("the configuration is not valid")
	// ErrNoApps is returned when no Meta app is configured.
	ErrNoApps = errors.New("no Meta app is configured")
)

// Options are the sources of settings for [Load].
type Options struct {
	// File is the path of a YAML file; empty reads none. The file must exist.
	File string
	// Env is the environment as os.Environ returns it. Variables that begin with
	// PAGESTREAM_ are read: PAGESTREAM_WEBHOOK_MAX_BODY is webhook.max_body, and
	// PAGESTREAM_APP_ID, _SECRET (several separated by commas) and so on set the
	// first app, which is added if the file has none. An empty variable counts as
	// not set.
	Env []string
	// Flags are settings from the command line by key, as in "http.public". A
	// value is a string in the form of the environment, or has the setting's own
	// type.
	Flags map[string]any
	// IgnoreEnv lists variables that begin with PAGESTREAM_ but are not settings;
	// "PAGESTREAM_LOAD_*" stands for all with that prefix.
	IgnoreEnv []string
}

// Load returns the settings: defaults, overridden by the file, then the
// environment, then the flags. The result is valid. Otherwise the error wraps
// [ErrInvalid] and lists every problem of the first stage that found any: parsing,
// then validation. An error that does not wrap it is returned if the file can't be
// read.
func Load(o Options) (Config, error) {
	settings := map[string]any{} // by path
	var problems []error
	if o.File != "" {
		b, err := readBounded(o.File, maxFile)
		if err != nil {
			return Config{}, fmt.Errorf("read configuration: %w", err)
		}
		file, found := parseFile(o.File, b)
		if problems = found; len(found) == 0 {
			maps.Copy(settings, file)
		}
	}
	fromEnv, app, found := environment(o)
	problems = append(problems, found...)
	maps.Copy(settings, fromEnv)
	overlayApp(settings, app)
	fromFlags, found := parseFlags(o.Flags)
	problems = append(problems, found...)
	maps.Copy(settings, fromFlags)

	k := koanf.New(".")
	if err := k.Load(confmap.Provider(settings, "."), nil); err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	c := Default()
	if err := k.Unmarshal("", &c); err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	problems = append(problems, resolve(&c)...)
	if len(problems) > 0 {
		return Config{}, invalid(problems)
	}
	if err := c.Validate(); err != nil {
		return Config{}, err
	}
	return c, nil
}

func invalid(problems []error) error {
	return fmt.Errorf("%w:\n%w", ErrInvalid, errors.Join(problems...))
}

// environment returns the settings in variables, by path, the settings of the
// first app, and the problems in them.
func environment(o Options) (settings, app map[string]any, problems []error) {
	values := map[string]string{}
	for _, e := range slices.Backward(o.Env) { // the first of repeated names wins, as for getenv
		if name, value, _ := strings.Cut(e, "="); strings.HasPrefix(name, envPrefix) {
			values[name] = value
		}
	}
	settings, app = map[string]any{}, map[string]any{}
	all := slices.Concat(keys, appKeys)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		i := slices.IndexFunc(all, func(k key) bool { return k.env == name })
		out := settings
		if i >= len(keys) {
			out = app
		}
		switch ignore := ignored(o.IgnoreEnv, name); {
		case values[name] == "", ignore && (i < 0 || i >= len(keys)):
		case i < 0:
			problems = append(problems, errors.New("environment: "+unknownSetting(name, envNames(all))))
		default:
			v, err := all[i].parse(values[name])
			if err != nil {
				problems = append(problems, fmt.Errorf("environment %s: %w", name, err))
				continue
			}
			out[all[i].path] = v
		}
	}
	return settings, app, problems
}

func envNames(list []key) []string {
	names := make([]string, len(list))
	for i, k := range list {
		names[i] = k.env
	}
	return names
}

// ignored reports whether a variable matches one of the patterns of
// [Options.IgnoreEnv].
func ignored(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		if prefix, ok := strings.CutSuffix(p, "*"); ok {
			return strings.HasPrefix(name, prefix)
		}
		return p == name
	})
}

// parseFlags returns the values of flags in the types of their settings, and the
// problems in them. An unknown key is a problem.
func parseFlags(flags map[string]any) (map[string]any, []error) {
	var problems []error
	out := make(map[string]any, len(flags))
	for _, path := range slices.Sorted(maps.Keys(flags)) {
		k, ok := find(keys, path)
		if !ok {
			problems = append(problems, errors.New("flag: "+unknownSetting(path, paths(keys))))
			continue
		}
		value := flags[path]
		if text, isText := value.(string); isText {
			v, err := k.parse(text)
			if err != nil {
				problems = append(problems, fmt.Errorf("flag %s: %w", path, err))
				continue
			}
			value = v
		}
		if reflect.TypeOf(value) != k.typ {
			problems = append(problems, fmt.Errorf("flag %s: a %T where a %s is needed", path, value, k.typ))
			continue
		}
		out[path] = value
	}
	return out, problems
}

// overlayApp overrides the settings of the first app with those of the
// environment, and adds an app if there is none.
func overlayApp(settings, app map[string]any) {
	if len(app) == 0 {
		return
	}
	apps, _ := settings["apps"].([]any)
	if len(apps) == 0 {
		apps = []any{map[string]any{}}
		settings["apps"] = apps
	}
	first := apps[0].(map[string]any)
	// A secret and its file are alternatives: the environment's replaces both.
	for field, file := range map[string]string{"secrets": "secret_files", "verify_token": "verify_token_file"} {
		if app[field] != nil || app[file] != nil {
			delete(first, field)
			delete(first, file)
		}
	}
	maps.Copy(first, app)
}

// maxSecret is the maximum length of a secret and of a secret's file in bytes.
const maxSecret = 4096

// resolve sets the defaults that depend on other settings and reads the files with
// secrets.
func resolve(c *Config) []error {
	var problems []error
	c.Projections.Dir = c.ProjectionsDir()
	for i := range c.Apps {
		app := &c.Apps[i]
		if app.Name == "" && i == 0 {
			app.Name = DefaultAppName
		}
		app.GraphVersion = cmp.Or(app.GraphVersion, DefaultGraphVersion)
		app.GraphURL = cmp.Or(app.GraphURL, DefaultGraphURL)
		app.LoginURL = cmp.Or(app.LoginURL, DefaultLoginURL)
		for j, file := range app.SecretFiles {
			secret, err := readSecret(file)
			if err != nil {
				problems = append(problems, fmt.Errorf("apps[%d].secret_files[%d]: %w", i, j, err))
				continue
			}
			app.Secrets = append(app.Secrets, secret)
		}
		switch {
		case app.VerifyTokenFile == "":
		case app.VerifyToken != "":
			problems = append(problems,
				fmt.Errorf("apps[%d]: both verify_token and verify_token_file are set: remove one", i))
		default:
			var err error
			if app.VerifyToken, err = readSecret(app.VerifyTokenFile); err != nil {
				problems = append(problems, fmt.Errorf("apps[%d].verify_token_file: %w", i, err))
			}
		}
	}
	return problems
}

// readSecret reads a file that contains one secret. White space around the secret,
// such as the last newline, is removed.
func readSecret(path string) (Secret, error) {
	b, err := readBounded(path, maxSecret)
	if err != nil {
		return "", err
	}
	s := Secret(strings.TrimSpace(string(b)))
	if s == "" {
		return "", fmt.Errorf("%s is empty: write the secret into it", path)
	}
	return s, nil
}

// readBounded reads a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s is larger than %s", path, ByteSize(limit))
	}
	return b, nil
}
