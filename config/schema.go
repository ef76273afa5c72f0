package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pagestream/pagestream/internal/nearest"
)

// envPrefix is the prefix of the environment variables of all settings.
const envPrefix = "PAGESTREAM_"

// key is the description of one setting.
type key struct {
	path string // "webhook.max_body"; for an app's setting the name only
	env  string // "PAGESTREAM_WEBHOOK_MAX_BODY"
	typ  reflect.Type
}

var (
	// keys are the settings of [Config] in order, without apps.
	keys = sectionKeys()
	// appKeys are the settings of an [App] in order, with the variables that set
	// them for the first app.
	appKeys = fieldKeys(reflect.TypeFor[App](), "", "app_")
)

func sectionKeys() []key {
	var list []key
	for section := range reflect.TypeFor[Config]().Fields() {
		if section.Type.Kind() == reflect.Struct {
			name := section.Tag.Get("koanf")
			list = append(list, fieldKeys(section.Type, name+".", name+"_")...)
		}
	}
	return list
}

// singular renames the variables of lists of secrets: one secret is the usual
// case.
var singular = strings.NewReplacer("app_secrets", "app_secret", "app_secret_files", "app_secret_file")

func fieldKeys(group reflect.Type, path, env string) []key {
	var list []key
	for f := range group.Fields() {
		name := f.Tag.Get("koanf")
		list = append(list, key{
			path: path + name,
			env:  envPrefix + strings.ToUpper(singular.Replace(env+name)),
			typ:  f.Type,
		})
	}
	return list
}

// find returns the key with that path.
func find(list []key, path string) (key, bool) {
	i := slices.IndexFunc(list, func(k key) bool { return k.path == path })
	if i < 0 {
		return key{}, false
	}
	return list[i], true
}

// sections lists the names of the groups of settings, in order.
func sections() []string {
	var names []string
	for _, k := range keys {
		name, _, _ := strings.Cut(k.path, ".")
		names = append(names, name)
	}
	return slices.Compact(names)
}

func paths(list []key) []string {
	out := make([]string, len(list))
	for i, k := range list {
		out[i] = k.path
	}
	return out
}

// parse converts text to the key's type, and splits a list at its commas. Its
// errors quote the text. Secrets are never quoted: they are strings or lists of
// strings, which can't fail.
func (k key) parse(text string) (any, error) {
	switch k.typ {
	case reflect.TypeFor[time.Duration]():
		d, err := time.ParseDuration(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("%q is not a duration: write a number and a unit, as in 4s, 500ms or 10m", text)
		}
		return d, nil
	case reflect.TypeFor[ByteSize]():
		var b ByteSize
		if err := b.UnmarshalText([]byte(text)); err != nil {
			return nil, fmt.Errorf("%q is %w", text, err)
		}
		return b, nil
	case reflect.TypeFor[int]():
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("%q is not a whole number: write digits, as in 16", text)
		}
		return n, nil
	case reflect.TypeFor[bool]():
		switch strings.TrimSpace(text) {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
		return nil, fmt.Errorf("%q is not a switch: write true or false", text)
	}
	if k.isList() {
		return splitList(text), nil
	}
	return reflect.ValueOf(text).Convert(k.typ).Interface(), nil
}

// isList reports whether the key takes several values.
func (k key) isList() bool { return k.typ.Kind() == reflect.Slice }

// unknownSetting returns the message for a name that is not a setting, with a
// similar candidate if there is one.
func unknownSetting(name string, candidates []string) string {
	if n := nearest.Name(name, candidates); n != "" {
		return fmt.Sprintf("%s is not a setting: did you mean %s?", name, n)
	}
	return fmt.Sprintf("%s is not a setting: see pagestream config example", name)
}
