package seal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
)

// Errors of reading and writing the key file.
var (
	// ErrKeyMissing is returned when there is no key file although sealed texts
	// exist.
	ErrKeyMissing = errors.New("key file is missing")
	// ErrKeyFileMode is returned when other users than the owner can read or write
	// the key file.
	ErrKeyFileMode = errors.New("key file can be accessed by other users")
	// ErrKeyFile is returned when a key file's content is not what Save writes.
	ErrKeyFile = errors.New("key file is not valid")
	// ErrKeyFileChanged is returned when the file has keys that saving would
	// delete.
	ErrKeyFileChanged = errors.New("key file was changed by another process")
)

const (
	fileVersion = 1
	maxFile     = 1 << 20
)

// keyFile is the JSON of the key file.
type keyFile struct {
	Version int       `json:"version"`
	Primary string    `json:"primary"`
	Keys    []fileKey `json:"keys"`
	// Root is written if the first key was removed, from which it was extracted.
	Root []byte `json:"root,omitempty"`
}

type fileKey struct {
	ID  string `json:"id"`
	Key []byte `json:"key"`
}

// Load reads a key file. [ErrKeyFileMode] is returned for a file whose mode gives
// its group or others any access (not on Windows, which has no such modes),
// [ErrKeyFile] for content that [KeyRing.Save] did not write, and an error that
// wraps fs.ErrNotExist for a missing file.
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
	return newRing(set), nil
}

// decode decodes a key file's content or returns the reason why it is not valid.
// The reason never quotes the content, so errors of the JSON decoder are not
// included.
func decode(b []byte) (set *keySet, reason string) {
	if len(b) > maxFile {
		return nil, "it is larger than 1 MiB"
	}
	var file keyFile
	if json.Unmarshal(b, &file) != nil {
		return nil, "its content is not the JSON that pagestream writes"
	}
	if file.Version != fileVersion {
		return nil, fmt.Sprintf("it has version %d, but this program reads version %d", file.Version, fileVersion)
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
			return nil, "it has the same key id twice"
		}
		key, err := newKey(k.ID, k.Key)
		if err != nil {
			return nil, fmt.Sprintf("key %d of %d is not usable", i+1, len(file.Keys))
		}
		set.keys = append(set.keys, key)
	}
	if set.primary = set.find(file.Primary); set.primary == nil {
		return nil, "its primary key is missing"
	}
	if set.root = file.Root; len(set.root) == 0 {
		root, err := extract(set.keys[0])
		if err != nil {
			return nil, "its first key is not usable"
		}
		set.root = root
	}
	if len(set.root) != keySize {
		return nil, "its root is malformed"
	}
	return set, ""
}

// followed is a file of keys that other processes may change.
type followed struct {
	path string
	last os.FileInfo // when it was last read; nil before
}

// Follow makes the ring follow its file: [KeyRing.Refresh] reads it again, and so does [KeyRing.Open] when it meets a
// key that the ring does not have. It must be called before the ring is used by other goroutines.
func (k *KeyRing) Follow(path string) { k.file = &followed{path: path} }

// Refresh reads the file that the ring follows if it was changed, and takes up its keys: those that another process has
// added, its primary key, and that others were removed. It reports whether anything has changed. [ErrKeyFile] is returned,
// once for each change of the file, and the ring stays as it is, if the file is of another installation or lacks the
// primary key of the ring, as an older copy does. It only looks at the file's time and size if it was not changed.
func (k *KeyRing) Refresh() (changed bool, err error) {
	k.changing.Lock()
	defer k.changing.Unlock()
	info, err := os.Stat(k.file.path)
	if err != nil {
		return false, fmt.Errorf("look at key file: %w", err)
	}
	if was := k.file.last; was != nil && os.SameFile(was, info) && was.Size() == info.Size() &&
		was.ModTime().Equal(info.ModTime()) {
		return false, nil
	}
	k.file.last = info
	loaded, err := Load(k.file.path)
	if err != nil {
		return false, err
	}
	now, next := k.set.Load(), loaded.set.Load()
	switch {
	case !bytes.Equal(now.root, next.root):
		return false, fmt.Errorf("%w: %s is of another installation", ErrKeyFile, k.file.path)
	case next.find(now.primary.id) == nil:
		return false, fmt.Errorf("%w: %s lacks key %s, which is in use: it is an older copy",
			ErrKeyFile, k.file.path, now.primary.id)
	case now.primary.id == next.primary.id && slices.Equal(k.KeyIDs(), loaded.KeyIDs()):
		return false, nil
	}
	k.set.Store(next)
	return true, nil
}

// LoadOrCreate reads the key file as [Load] does. If there is none, it creates it
// with one new key, and its directory; created reports that. If several processes
// call it at the same time, one creates the file and all get the same keys.
//
// mustExist is true if sealed texts exist already. New keys would not open them,
// so [ErrKeyMissing] is returned for a missing file.
func LoadOrCreate(path string, mustExist bool) (ring *KeyRing, created bool, err error) {
	ring, err = Load(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return ring, false, err
	}
	if mustExist {
		return nil, false, fmt.Errorf("%w: %s: the stored tokens can't be opened without it: "+
			"restore the file from your backup, or set its path in keys.file", ErrKeyMissing, path)
	}
	ring, err = NewKeyRing()
	if err != nil {
		return nil, false, fmt.Errorf("create key file: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, false, fmt.Errorf("create key file: %w", err)
	}
	// A link, unlike a rename, fails if the file exists: the second process then
	// loads the file of the first one. The file appears with its complete content.
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

// Save writes the ring to path atomically, with mode 0600: after a crash the file
// is the old or the new one, and once Save has returned it is the new one. If path
// is a symbolic link, the link's target is replaced.
//
// [ErrKeyFileChanged] is returned, and the file is not changed, if the file has a
// key that this ring does not have. Two processes that save at exactly the same
// time are not detected: rotate keys in one process only.
func (k *KeyRing) Save(path string) error { return k.set.Load().save(path, "") }

// save writes the set as [KeyRing.Save] does. The key removed may be in the file and
// not in the set.
func (s *keySet) save(path, removed string) error {
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
			if id != removed && s.find(id) == nil {
				return fmt.Errorf("save: %w: %s has key %s, which would be lost: load it again and repeat the change",
					ErrKeyFileChanged, path, id)
			}
		}
	}
	if err := s.write(path, os.Rename); err != nil {
		return fmt.Errorf("save key file: %w", err)
	}
	return nil
}

// RotateFile adds a new random primary key as [KeyRing.Rotate] does, and writes it
// to the file at path as [KeyRing.Save] does before anything is sealed with it. If
// it fails, the ring is unchanged.
func (k *KeyRing) RotateFile(path string) error {
	return k.replace((*keySet).withNewKey, func(next *keySet) error { return next.save(path, "") })
}

// RemoveFromFile removes a key from the ring and from the file at path. What was sealed
// with the key can't be opened any more; [KeyRing.Derive] returns the same as before.
// [ErrUnknownKey] is returned if the ring has no such key, [ErrPrimaryKey] if it is the
// one that seals. If it fails, the ring is unchanged.
func (k *KeyRing) RemoveFromFile(path, id string) error {
	return k.replace(
		func(s *keySet) (*keySet, error) { return s.without(id) },
		func(next *keySet) error { return next.save(path, id) },
	)
}

// write creates a temporary file in the directory of path, and moves it to path
// with place (os.Rename or os.Link).
func (s *keySet) write(path string, place func(from, to string) error) error {
	file := keyFile{Version: fileVersion, Primary: s.primary.id}
	for _, k := range s.keys {
		file.Keys = append(file.Keys, fileKey{ID: k.id, Key: k.raw})
	}
	if root, err := extract(s.keys[0]); err != nil || !bytes.Equal(root, s.root) {
		file.Root = s.root
	}
	b, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return errors.New("encode keys") // the cause might quote the keys
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".keys-*") // mode 0600
	if err != nil {
		return err
	}
	// A link leaves the temporary name, and so does an error; a rename does not.
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

// syncDir makes a new name in dir durable. Windows can't sync a directory and does
// not need it.
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
