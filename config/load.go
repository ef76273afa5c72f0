package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"sort"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/rawbytes"
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
	k := koanf.New(".")
	var problems []error
	if o.File != "" {
		b, err := readBounded(o.File, maxFile)
		if err != nil {
			return Config{}, fmt.Errorf("read configuration: %w", err)
		}
		if err := k.Load(rawbytes.Provider(b), fileParser{name: o.File}); err != nil {
			problems = append(problems, err)
		}
	}
	fromEnv, found := environment(o)
	problems = append(problems, found...)
	if err := k.Load(fromEnv, nil); err != nil {
		return Config{}, fmt.Errorf("read environment: %w", err)
	}
	flags, found := parseFlags(o.Flags)
	problems = append(problems, found...)
	if err := k.Load(confmap.Provider(flags, "."), nil); err != nil {
		return Config{}, fmt.Errorf("read flags: %w", err)
	}

	c := Default()
	if err := k.Unmarshal("", &c); err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	overlayApp(&c, o)
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

// environment returns a provider of the variables that set a key, typed, and
// what is wrong with them.
func environment(o Options) (koanf.Provider, []error) {
	var problems []error
	known, app := keys(), appKeys()
	names := envNames(known, app)
	// A name that occurs twice counts as the system's getenv has it: once, the
	// first.
	seen := map[string]bool{}
	provider := env.Provider(".", env.Opt{
		Prefix: envPrefix,
		// Sorted, so that problems come in the same order every time.
		EnvironFunc: func() []string { return sortedEnv(o.Env) },
		TransformFunc: func(name, value string) (string, any) {
			if seen[name] || value == "" {
				return "", nil
			}
			seen[name] = true
			i := slices.IndexFunc(known, func(k key) bool { return k.env == name })
			if i < 0 {
				if !slices.Contains(names, name) && !ignored(o.IgnoreEnv, name) {
					problems = append(problems, errors.New("environment: "+unknown(name, names)))
				}
				return "", nil
			}
			v, err := known[i].parse(value)
			if err != nil {
				problems = append(problems, fmt.Errorf("environment %s: %w", name, err))
				return "", nil
			}
			return known[i].path, v
		},
	})
	// Read now: the problems are known only then.
	m, err := provider.Read()
	if err != nil {
		problems = append(problems, err)
	}
	return confmap.Provider(m, ""), problems
}

// sortedEnv sorts by name and keeps the order of equal names.
func sortedEnv(environ []string) []string {
	out := slices.Clone(environ)
	sort.SliceStable(out, func(i, j int) bool {
		a, _, _ := strings.Cut(out[i], "=")
		b, _, _ := strings.Cut(out[j], "=")
		return a < b
	})
	return out
}

func envNames(lists ...[]key) []string {
	var names []string
	for _, list := range lists {
		for _, k := range list {
			names = append(names, k.env)
		}
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
	known := keys()
	out := make(map[string]any, len(flags))
	for path, value := range flags {
		k, ok := find(known, path)
		if !ok {
			problems = append(problems, errors.New("flag: "+unknown(path, paths(known))))
			continue
		}
		if text, isText := value.(string); isText {
			v, err := k.parse(text)
			if err != nil {
				problems = append(problems, fmt.Errorf("flag %s: %w", path, err))
				continue
			}
			value = v
		}
		v := reflect.ValueOf(value)
		if !v.IsValid() || v.Type() != k.typ {
			problems = append(problems, fmt.Errorf("flag %s: a %T where a %s is needed", path, value, k.typ))
			continue
		}
		out[path] = value
	}
	slices.SortFunc(problems, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return out, problems
}

// overlayApp lets the PAGESTREAM_APP_ variables set the first app.
func overlayApp(c *Config, o Options) {
	values := map[string]string{}
	for _, e := range slices.Backward(o.Env) {
		if name, value, ok := strings.Cut(e, "="); ok {
			values[name] = value // backward, so that the first of a name stays
		}
	}
	get := func(field string) (key, string, bool) {
		k, _ := find(appKeys(), field)
		v := values[k.env]
		return k, v, v != "" && !ignored(o.IgnoreEnv, k.env)
	}
	if !slices.ContainsFunc(appKeys(), func(k key) bool { _, _, ok := get(k.path); return ok }) {
		return
	}
	if len(c.Apps) == 0 {
		c.Apps = []App{{}}
	}
	app := &c.Apps[0]
	// A secret and its file are one setting: the environment's replaces both.
	_, _, secret := get("secrets")
	_, _, secretFile := get("secret_files")
	if secret || secretFile {
		app.Secrets, app.SecretFiles = nil, nil
	}
	_, _, token := get("verify_token")
	_, _, tokenFile := get("verify_token_file")
	if token || tokenFile {
		app.VerifyToken, app.VerifyTokenFile = "", ""
	}
	fields := reflect.ValueOf(app).Elem()
	for i := range fields.NumField() {
		k, text, ok := get(fields.Type().Field(i).Tag.Get("koanf"))
		switch {
		case !ok:
		case k.isList():
			for _, part := range k.parseList(text) {
				item := reflect.ValueOf(part).Convert(k.typ.Elem())
				fields.Field(i).Set(reflect.Append(fields.Field(i), item))
			}
		default:
			fields.Field(i).Set(reflect.ValueOf(text).Convert(k.typ))
		}
	}
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
		if app.GraphVersion == "" {
			app.GraphVersion = DefaultGraphVersion
		}
		if app.LoginURL == "" {
			app.LoginURL = DefaultLoginURL
		}
		if app.GraphURL == "" {
			app.GraphURL = DefaultGraphURL
		}
		for j, file := range app.SecretFiles {
			secret, err := readSecret(file)
			if err != nil {
				problems = append(problems, fmt.Errorf("apps[%d].secret_files[%d]: %w", i, j, err))
				continue
			}
			app.Secrets = append(app.Secrets, secret)
		}
		if app.VerifyTokenFile == "" {
			continue
		}
		if app.VerifyToken != "" {
			problems = append(problems, fmt.Errorf("apps[%d]: both verify_token and verify_token_file are set: remove one", i))
			continue
		}
		token, err := readSecret(app.VerifyTokenFile)
		if err != nil {
			problems = append(problems, fmt.Errorf("apps[%d].verify_token_file: %w", i, err))
			continue
		}
		app.VerifyToken = token
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
