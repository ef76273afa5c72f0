package backup

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	manifestFile = "manifest.json"
	format       = 2
	// formatEncrypted is the format of a backup with encrypted files, which an older
	// pagestream would restore as they are.
	formatEncrypted = 3
	maxManifest     = 16 << 20
)

// Errors of [Check].
var (
	// ErrNoBackup is returned when a directory contains no complete backup.
	ErrNoBackup = errors.New("no complete backup: there is no manifest.json")
	// ErrDamaged is returned when a file is missing or is not as it was written.
	ErrDamaged = errors.New("the backup is damaged; take another one")
	// ErrFormat is returned when a newer pagestream wrote the backup.
	ErrFormat = errors.New("the backup is of a newer pagestream")
	// ErrOldFormat is returned when an older pagestream wrote the backup, whose events
	// have another format.
	ErrOldFormat = errors.New("the backup is of an older pagestream; restore it with that one, type with it: " +
		"pagestream events export FILE, and with this one: pagestream events import FILE")
)

// Manifest lists the contents of a backup. It is written last: a backup without a
// manifest is incomplete.
type Manifest struct {
	Format  int       `json:"format"`
	Created time.Time `json:"created"`
	Streams []Stream  `json:"streams"`
	// Files are the names in the backup of the installation's files, by role; the name of
	// an encrypted one ends with ".age". Sums are the checksums of all files in the backup, by name.
	Files map[string]string `json:"files"`
	Sums  map[string]Sum    `json:"sums"`
}

// Stream is one stream of a backup.
type Stream struct {
	Name string `json:"name"`
	// Head is the stream's last sequence when the backup was started. The copy
	// contains at least the events up to there.
	Head uint64 `json:"head"`
	// Created is when the stream was created; see [streams.CreatedAt].
	Created time.Time `json:"created,omitzero"`
}

// Sum is a file's size and SHA-256.
type Sum struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

func sumOf(path string) (Sum, error) {
	f, err := os.Open(path)
	if err != nil {
		return Sum{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return Sum{Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}, err
}

// sums returns the checksums of all files below dir, except the manifest, by their
// slash-separated names.
func sums(dir string) (map[string]Sum, error) {
	out := map[string]Sum{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() == manifestFile || e.Name() == markerFile {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		out[filepath.ToSlash(name)], err = sumOf(path)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read backup: %w", err)
	}
	return out, nil
}

// Check reads all files of a backup and returns its manifest if each is as it was
// written. It fails with [ErrNoBackup], [ErrDamaged], [ErrFormat] or
// [ErrOldFormat].
func Check(dir string) (m Manifest, err error) {
	f, err := os.Open(filepath.Join(dir, manifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("%s: %w", dir, ErrNoBackup)
	}
	if err != nil {
		return m, fmt.Errorf("read backup: %w", err)
	}
	defer f.Close()
	if err := json.NewDecoder(io.LimitReader(f, maxManifest)).Decode(&m); err != nil {
		return m, fmt.Errorf("manifest.json: %w", ErrDamaged)
	}
	if m.Format > formatEncrypted {
		return m, ErrFormat
	}
	if m.Format < format {
		return m, ErrOldFormat
	}
	have, err := sums(dir)
	if err != nil {
		return m, err
	}
	for name, want := range m.Sums {
		if got, found := have[name]; !found || got != want {
			return m, fmt.Errorf("%s: %w", name, ErrDamaged)
		}
	}
	for _, s := range m.Streams { // the name is that of a directory of the backup
		if !filepath.IsLocal(s.Name) || strings.ContainsAny(s.Name, `/\`) {
			return m, fmt.Errorf("manifest.json: %w", ErrDamaged)
		}
	}
	for name := range m.Files {
		if _, found := m.Sums[m.Files[name]]; !found {
			return m, fmt.Errorf("%s: %w", name, ErrDamaged)
		}
	}
	return m, nil
}
