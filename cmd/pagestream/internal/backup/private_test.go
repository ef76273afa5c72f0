//go:build unix

package backup

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"filippo.io/age"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// installation returns the options of a backup of a stream with one event and two files.
func installation(t *testing.T) Options {
	t.Helper()
	r := projectionstest.NewRig(t, deliveries.New())
	r.Publish(t, event(1))
	files := map[string]string{}
	for role, name := range map[string]string{"keys": "keys.json", "config": "pagestream.yaml"} {
		files[role] = filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(files[role], []byte("secrets of "+role), 0o644))
	}
	return Options{
		Conn: r.JS.Conn(), Streams: []string{streams.Name}, Files: files, Dir: filepath.Join(t.TempDir(), "backup"),
	}
}

// TestBackupIsPrivateWhateverTheUmask checks the modes of all files and directories.
func TestBackupIsPrivateWhateverTheUmask(t *testing.T) {
	o := installation(t)
	for _, umask := range []int{0, 0o022, 0o277} {
		o.Dir = filepath.Join(t.TempDir(), "backup")
		before := syscall.Umask(umask)
		_, err := Take(t.Context(), o)
		syscall.Umask(before)
		require.NoError(t, err)
		require.NoError(t, filepath.WalkDir(o.Dir, func(path string, d fs.DirEntry, err error) error {
			require.NoError(t, err)
			info, err := d.Info()
			require.NoError(t, err)
			want := os.FileMode(0o600)
			if d.IsDir() {
				want = 0o700
			}
			assert.Equal(t, want, info.Mode().Perm(), "%s with umask %o", path, umask)
			assert.NotEqual(t, markerFile, d.Name())
			return nil
		}))
	}
}

// TestBackupDeletesOnlyWhatABackupMade checks that a directory with the name of an incomplete backup is deleted only if
// it is one.
func TestBackupDeletesOnlyWhatABackupMade(t *testing.T) {
	o := installation(t)
	partial := o.Dir + ".partial"
	precious := filepath.Join(partial, "precious")
	require.NoError(t, os.MkdirAll(partial, 0o755))
	require.NoError(t, os.WriteFile(precious, []byte("mine"), 0o600))
	_, err := Take(t.Context(), o)
	require.ErrorIs(t, err, ErrPartial)
	require.ErrorContains(t, err, partial)
	b, err := os.ReadFile(precious)
	require.NoError(t, err)
	assert.Equal(t, "mine", string(b))

	require.NoError(t, os.WriteFile(filepath.Join(partial, markerFile), nil, 0o600)) // as after a crash
	o.Files["keys"] = filepath.Join(t.TempDir(), "absent")
	_, err = Take(t.Context(), o)
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = os.Stat(partial)
	require.ErrorIs(t, err, os.ErrNotExist, "a failed backup deletes what it has made")
	delete(o.Files, "keys")
	_, err = Take(t.Context(), o)
	require.NoError(t, err)

	o.Dir = filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(t.TempDir(), o.Dir+".partial"))
	_, err = Take(t.Context(), o)
	require.ErrorIs(t, err, ErrPartial)
	running.Store(o.Dir+".partial", true)
	_, err = Take(t.Context(), o)
	require.ErrorIs(t, err, ErrRunning)
	running.Delete(o.Dir + ".partial")
}

// TestBackupIsEncrypted checks that keys and configuration are not readable in an encrypted backup, and that they are
// restored with the identity and with no other.
func TestBackupIsEncrypted(t *testing.T) {
	o := installation(t)
	mine, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	other, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	file := func(i *age.X25519Identity) string {
		name := filepath.Join(t.TempDir(), "identity")
		require.NoError(t, os.WriteFile(name, []byte("# a comment\n"+i.String()+"\n"), 0o600))
		return name
	}
	two := mine.Recipient().String() + "\n" + other.Recipient().String()
	for _, bad := range []string{"", "age1x", mine.String(), two} {
		o.EncryptTo = []string{bad}
		_, err = Take(t.Context(), o)
		require.ErrorIs(t, err, ErrRecipient)
		assert.NotContains(t, err.Error(), mine.String())
	}
	o.EncryptTo = []string{mine.Recipient().String()}
	m, err := Take(t.Context(), o)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"keys": "keys.json.age", "config": "config.yaml.age"}, m.Files)
	for _, name := range m.Files {
		b, err := os.ReadFile(filepath.Join(o.Dir, name))
		require.NoError(t, err)
		assert.NotContains(t, string(b), "secrets of")
	}
	for name, identity := range map[string]string{"none": "", "other": file(other), "not one": o.Files["keys"]} {
		other := streamstest.Run(t)
		to := filepath.Join(t.TempDir(), "keys.json")
		_, err = Restore(t.Context(), RestoreOptions{
			Conn: other.JS.Conn(), Dir: o.Dir, Files: map[string]string{"keys": to}, Identity: identity,
		})
		require.ErrorIs(t, err, ErrIdentity, name)
		_, err = streams.Last(t.Context(), other.JS, streams.Name)
		require.Error(t, err, "%s: no stream was created", name)
	}
	to := filepath.Join(t.TempDir(), "keys.json")
	_, err = Restore(t.Context(), RestoreOptions{
		Conn: streamstest.Run(t).JS.Conn(), Dir: o.Dir, Files: map[string]string{"keys": to}, Identity: file(mine),
	})
	require.NoError(t, err)
	b, err := os.ReadFile(to)
	require.NoError(t, err)
	assert.Equal(t, "secrets of keys", string(b))
}
