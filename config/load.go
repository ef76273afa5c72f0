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
	// ErrInvalid says that a setting is unknown, unreadable or out of bounds.
	// The error's text has one line a problem and never a secret.
	ErrInvalid = errors.New("the configuration is not valid")
	// ErrNoApps says that no Meta app is configured.
	ErrNoApps = errors.New("no Meta app is configured")
)

// Options says where settings come from.
type Options struct {
	// File is a YAML file; empty reads none. One that is named must exist.
	File string
	// Env is the environment as os.Environ returns it; nil is an empty one.
	// Of it, variables that begin with PAGESTREAM_ are read:
	// PAGESTREAM_WEBHOOK_MAX_BODY is webhook.max_body, and PAGESTREAM_APP_ID,
	// _SECRET (several separated by commas) and so on set the first app,
	// which is made where the file has none. A variable that is set to nothing
	// counts as not set.
	Env []string
	// Flags are settings by key, as in "http.public", from the command line.
	// A value is a string as the environment would have it, or of the
	// setting's own type.
	Flags map[string]any
	// IgnoreEnv names variables that begin with PAGESTREAM_ but are read by
	// someone else; "PAGESTREAM_LOAD_*" names all that begin so.
	IgnoreEnv []string
}

// Load returns the settings in force: defaults, then the file, the environment
// and the flags. The result is valid, or the error wraps [ErrInvalid] and tells
// every problem of the first stage that found any: reading, then validation.
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
	problems = append(problems, finish(&c)...)
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

// environment returns the settings that variables set, by path, those that they
// set of the first app, and what is wrong with them.
func environment(o Options) (settings, app map[string]any, problems []error) {
	values := map[string]string{}
	for _, e := range slices.Backward(o.Env) { // of a name that occurs twice, getenv has the first
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
		switch elsewhere := ignored(o.IgnoreEnv, name); {
		case values[name] == "", elsewhere && (i < 0 || i >= len(keys)):
		case i < 0:
			problems = append(problems, errors.New("environment: "+unknown(name, envNames(all))))
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

func ignored(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		if prefix, ok := strings.CutSuffix(p, "*"); ok {
			return strings.HasPrefix(name, prefix)
		}
		return p == name
	})
}

// parseFlags types the values of flags and refuses unknown keys.
func parseFlags(flags map[string]any) (map[string]any, []error) {
	var problems []error
	out := make(map[string]any, len(flags))
	for _, path := range slices.Sorted(maps.Keys(flags)) {
		k, ok := find(keys, path)
		if !ok {
			problems = append(problems, errors.New("flag: "+unknown(path, paths(keys))))
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

// overlayApp lets what the environment says of an app set the first one.
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
	// A secret and its file are one setting: the environment's replaces both.
	for field, file := range map[string]string{"secrets": "secret_files", "verify_token": "verify_token_file"} {
		if app[field] != nil || app[file] != nil {
			delete(first, field)
			delete(first, file)
		}
	}
	maps.Copy(first, app)
}

// maxSecret bounds a secret's file in bytes.
const maxSecret = 4096

// finish fills in what depends on other settings and reads secrets' files.
func finish(c *Config) []error {
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
			problems = append(problems, fmt.Errorf("apps[%d]: both verify_token and verify_token_file are set: remove one", i))
		default:
			var err error
			if app.VerifyToken, err = readSecret(app.VerifyTokenFile); err != nil {
				problems = append(problems, fmt.Errorf("apps[%d].verify_token_file: %w", i, err))
			}
		}
	}
	return problems
}

// readSecret reads a file that holds one secret; space around it, such as the
// last newline, is not part of it.
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
