package hooks

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"go.yaml.in/yaml/v3"
)

// Company is the name or the id of a company, empty for none. In a file it can't be empty.
type Company string

// UnmarshalYAML implements [yaml.Unmarshaler]. An empty text is an error, which is not shown.
func (c *Company) UnmarshalYAML(n *yaml.Node) error {
	var text string
	if err := n.Decode(&text); err != nil || text == "" {
		return ErrFile
	}
	*c = Company(text)
	return nil
}

// maxFile bounds the file of endpoints, in bytes.
const maxFile = 1 << 20

// ErrFile is returned when a file of endpoints is larger than 1 MiB, or is not a
// list of endpoints.
var ErrFile = errors.New("hooks.file is not valid")

// ReadFile reads a file of endpoints: a YAML list with the fields of [Endpoint].
// An empty file is an empty list. It fails with [ErrFile] if the file is not such a
// list. No error contains a value from the file, because the file contains secrets.
func ReadFile(path string) ([]Endpoint, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read hooks.file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read hooks.file: %w", err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%w: %s is larger than 1 MiB", ErrFile, path)
	}
	var list []Endpoint
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&list); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %s is not a list of endpoints with name, url, secrets, pages, company or all, types, "+
			"timeout and from; see: pagestream config example", ErrFile, path)
	}
	return list, nil
}
