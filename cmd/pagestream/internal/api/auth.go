package api

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// errTokenEmpty is returned when a token has fewer than 32 characters.
var errTokenEmpty = errors.New("admin token file has no token of 32 characters or more")

// minToken is the minimum number of characters of an admin token.
const minToken = 32

// ReadToken reads the admin token of the private listener. It fails if others can read
// the file, or if the token has fewer than 32 characters.
func ReadToken(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("read admin token: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("admin token file is readable by others; type: chmod 600 %s", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read admin token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if len(token) < minToken {
		return "", fmt.Errorf("%w: %s; delete it and a new one is made at the next start", errTokenEmpty, path)
	}
	return token, nil
}

// ReadOrCreateToken reads the admin token, or creates one with mode 0600 if the file
// is missing. Two processes that start at once get the same token.
func ReadOrCreateToken(path string) (token string, created bool, err error) {
	token, err = ReadToken(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return token, false, err
	}
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails: crypto/rand
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", false, fmt.Errorf("make admin token: %w", err)
	}
	// The token is written to a temporary file and linked, so that no reader sees a
	// partial token, and the first of two writers wins.
	f, err := os.CreateTemp(filepath.Dir(path), ".token-*")
	if err != nil {
		return "", false, fmt.Errorf("make admin token: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(hex.EncodeToString(b) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", false, fmt.Errorf("write admin token: %w", err)
	}
	err = os.Link(f.Name(), path)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return "", false, fmt.Errorf("write admin token: %w", err)
	}
	token, readErr := ReadToken(path)
	return token, err == nil, readErr
}
