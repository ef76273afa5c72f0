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
	ring, reason := decode(b)
	if reason != "" {
		return nil, fmt.Errorf("%w: %s: %s: restore it from a backup", ErrKeyFile, path, reason)
	}
	return ring, nil
}

// decode reads a key file's content or says what is wrong with it. It never
// quotes the content, so it passes on no error of the decoder.
func decode(b []byte) (ring *KeyRing, reason string) {
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
	ring = &KeyRing{keys: map[string]*key{}, primary: file.Primary}
	for i, k := range file.Keys {
		if !validID(k.ID) || len(k.Key) != keySize {
			return nil, fmt.Sprintf("key %d of %d is malformed", i+1, len(file.Keys))
		}
		if ring.keys[k.ID] != nil {
			return nil, "it has one key id twice"
		}
		if ring.add(k.ID, k.Key) != nil {
			return nil, fmt.Sprintf("key %d of %d is not usable", i+1, len(file.Keys))
		}
	}
	if ring.keys[ring.primary] == nil {
		return nil, "its primary key is not in it"
	}
	return ring, ""
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
	err = ring.write(path, os.Link)
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
func (k *KeyRing) Save(path string) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	old, err := Load(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("save: %w", err)
	default:
		ours := k.snapshot()
		for id := range old.keys {
			if !ours.has(id) {
				return fmt.Errorf("save: %w: %s has key %s, which would be lost: load it again and repeat the change", ErrKeyFileChanged, path, id)
			}
		}
	}
	if err := k.write(path, os.Rename); err != nil {
		return fmt.Errorf("save key file: %w", err)
	}
	return nil
}

// RotateFile adds a new random primary key as [KeyRing.Rotate] does, and has it
// in the file at path before anything is sealed with it. If that fails the ring
// is what it was.
func (k *KeyRing) RotateFile(path string) error {
	k.rotating.Lock()
	defer k.rotating.Unlock()
	next := &KeyRing{keys: map[string]*key{}}
	k.mu.RLock()
	for _, id := range k.order {
		next.keys[id] = k.keys[id]
		next.order = append(next.order, id)
	}
	next.primary = k.primary
	k.mu.RUnlock()
	if err := next.Rotate(); err != nil {
		return err
	}
	if err := next.Save(path); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys, k.order, k.primary = next.keys, next.order, next.primary
	return nil
}

// write makes the file under another name in the same directory and lets place
// (os.Rename or os.Link) give it its own.
func (k *KeyRing) write(path string, place func(from, to string) error) error {
	b, err := json.MarshalIndent(k.snapshot(), "", "  ")
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

func (k *KeyRing) snapshot() keyFile {
	k.mu.RLock()
	defer k.mu.RUnlock()
	file := keyFile{Version: fileVersion, Primary: k.primary}
	for _, id := range k.order {
		file.Keys = append(file.Keys, fileKey{ID: id, Key: k.keys[id].raw})
	}
	return file
}

func (f keyFile) has(id string) bool {
	for _, k := range f.Keys {
		if k.ID == id {
			return true
		}
	}
	return false
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
