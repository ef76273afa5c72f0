package seal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// Errors of reading and writing the key file.
var (
	// ErrKeyMissing says that there is no key file although there must be one.
	ErrKeyMissing = errors.New("key file is missing")
	// ErrKeyFileMode says that others than its owner can read the key file.
	ErrKeyFileMode = errors.New("key file can be read by others")
	// ErrKeyFile says that a key file's content is not what Save writes.
	ErrKeyFile = errors.New("key file is not readable")
	// ErrKeyFileChanged says that the file holds keys which saving would lose.
	ErrKeyFileChanged = errors.New("key file was changed by someone else")
)

const (
	fileVersion = 1
	maxFile     = 1 << 20
)

// keyFile is the key file's JSON.
type keyFile struct {
	Version int       `json:"version"`
	Primary string    `json:"primary"`
	Keys    []fileKey `json:"keys"`
}

type fileKey struct {
	ID  string `json:"id"`
	Key []byte `json:"key"`
}

// Load reads a key file. It refuses one that its group or others may read or
// write: [ErrKeyFileMode] (not on Windows, which has no such modes). A missing
// file is an error that wraps fs.ErrNotExist.
func Load(path string) (*KeyRing, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open key file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrKeyFile, path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("%w: %s has mode %04o: run: chmod 600 %s", ErrKeyFileMode, path, mode, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	set, reason := decode(b)
	if reason != "" {
		return nil, fmt.Errorf("%w: %s: %s: restore it from a backup", ErrKeyFile, path, reason)
	}
	return ringOf(set), nil
}

// decode reads a key file's content or says what is wrong with it. It never
// quotes the content, so it passes on no error of the decoder.
func decode(b []byte) (set *keySet, reason string) {
	if len(b) > maxFile {
		return nil, "it is larger than 1 MiB"
	}
	var file keyFile
	if json.Unmarshal(b, &file) != nil {
		return nil, "it is not the JSON that pagestream writes"
	}
	if file.Version != fileVersion {
		return nil, fmt.Sprintf("it has version %d, and this program reads version %d", file.Version, fileVersion)
	}
	if len(file.Keys) > MaxKeys {
		return nil, fmt.Sprintf("it has %d keys, more than %d", len(file.Keys), MaxKeys)
	}
	set = &keySet{}
	for i, k := range file.Keys {
		if !validID(k.ID) || len(k.Key) != keySize {
			return nil, fmt.Sprintf("key %d of %d is malformed", i+1, len(file.Keys))
		}
		if set.find(k.ID) != nil {
			return nil, "it has one key id twice"
		}
		key, err := newKey(k.ID, k.Key)
		if err != nil {
			return nil, fmt.Sprintf("key %d of %d is not usable", i+1, len(file.Keys))
		}
		set.keys = append(set.keys, key)
	}
	if set.primary = set.find(file.Primary); set.primary == nil {
		return nil, "its primary key is not in it"
	}
	return set, ""
}

// LoadOrCreate reads the key file, or makes it, and its directory, with one new
// key; created says which. When several processes do so at once, one creates
// and all get the same keys.
//
// mustExist says that sealed texts exist already. New keys would not open them,
// so a missing file is then [ErrKeyMissing].
func LoadOrCreate(path string, mustExist bool) (ring *KeyRing, created bool, err error) {
	ring, err = Load(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return ring, false, err
	}
	if mustExist {
		return nil, false, fmt.Errorf("%w: %s: there are tokens sealed with it, and they can't be opened without: "+
			"restore the file from your backup, or say where it is (keys.file)", ErrKeyMissing, path)
	}
	ring, err = NewKeyRing()
	if err != nil {
		return nil, false, fmt.Errorf("create key file: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, false, fmt.Errorf("create key file: %w", err)
	}
	// A link, unlike a rename, fails where the name is taken: who comes second
	// reads what the first one made, and it is whole from its first moment.
	err = ring.set.Load().write(path, os.Link)
	if errors.Is(err, fs.ErrExist) {
		ring, err = Load(path)
		return ring, false, err
	}
	if err != nil {
		return nil, false, fmt.Errorf("create key file: %w", err)
	}
	return ring, true, nil
}

// Save writes the ring to path, mode 0600, atomically: after a crash the file
// is the old or the new one, and once Save returned it is the new one. If path
// is a symbolic link, what it leads to is replaced.
//
// A file that holds a key which this ring lacks is left alone:
// [ErrKeyFileChanged]. Two processes that save at the very same moment are not
// told apart; rotate in one place.
func (k *KeyRing) Save(path string) error { return k.set.Load().save(path) }

func (s *keySet) save(path string) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	old, err := Load(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("save: %w", err)
	default:
		for _, id := range old.KeyIDs() {
			if s.find(id) == nil {
				return fmt.Errorf("save: %w: %s has key %s, which would be lost: load it again and repeat the change", ErrKeyFileChanged, path, id)
			}
		}
	}
	if err := s.write(path, os.Rename); err != nil {
		return fmt.Errorf("save key file: %w", err)
	}
	return nil
}

// RotateFile adds a new random primary key as [KeyRing.Rotate] does, and has it
// in the file at path before anything is sealed with it. If that fails the ring
// is what it was.
func (k *KeyRing) RotateFile(path string) error {
	return k.rotate(func(next *keySet) error { return next.save(path) })
}

// write makes the file under another name in the same directory and lets place
// (os.Rename or os.Link) give it its own.
func (s *keySet) write(path string, place func(from, to string) error) error {
	file := keyFile{Version: fileVersion, Primary: s.primary.id}
	for _, k := range s.keys {
		file.Keys = append(file.Keys, fileKey{ID: k.id, Key: k.raw})
	}
	b, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return errors.New("encode keys") // the cause might quote them
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".keys-*") // mode 0600
	if err != nil {
		return err
	}
	// After a rename there is nothing left to remove, after a link there is.
	defer os.Remove(f.Name())
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := place(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes a new name in dir durable. Windows can't sync a directory and
// need not.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
