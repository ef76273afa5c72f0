// Package datadir checks whether a data directory can be used. It has a format number,
// which is written into a new directory, and may have a record of a migration. A
// directory of another format, or one that was left by a migration, is refused before
// anything in it is opened.
package datadir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pagestream/pagestream/internal/disk"
)

// Format is the number of the format that this version writes. It changes with each
// change of the stored data that an older version must not work with.
const Format = 4

// oldest is the oldest format that [Convert] converts: that of version 0.1.0, in which no
// block of the stream is compressed. After a crash that version may add to one that is.
const oldest = 3

const (
	// file is the name of the file that contains the number and a newline.
	file = "FORMAT"
	// maxFile bounds how much of it is read, in bytes.
	maxFile = 64
)

// stores are the directories that every version of the server creates, also those
// from before formats were numbered. Other files, such as keys and tokens, may exist
// before a server's first start.
var stores = []string{"nats", "projections"}

// ErrDamaged is returned when the FORMAT file contains no number. The file is written
// and synced under another name first, so a crash can't be the cause: the file was
// changed, or the disk lost its contents.
var ErrDamaged = errors.New("no format number")

// FormatError is returned when a directory has another format than this version
// works with.
type FormatError struct {
	Dir string
	// Found is the directory's format, 0 if it is from before formats were numbered.
	// Want is [Format].
	Found, Want int
}

// Error names the directory and both formats, and the commands that move the events
// to a new directory.
func (e *FormatError) Error() string {
	origin := ""
	switch {
	case e.Found == 0:
		origin = " (from before formats were numbered)"
	case e.Found > e.Want:
		origin = " (of a newer pagestream)"
	}
	return fmt.Sprintf("data directory %s has format %d%s, this pagestream works with format %d; nothing was changed. "+
		"To keep the events, run the pagestream that wrote the directory and type: pagestream events export FILE. "+
		"Then stop it, set data.dir to a new directory, and type with this one: pagestream events import FILE. "+
		"Keep the key file (keys.file); a page whose token is not in the export must be connected again",
		e.Dir, e.Found, origin, e.Want)
}

// Check makes sure that dir is a data directory of this format, or of one that [Convert] converts. It creates a missing
// directory, and writes the format into one in which no server has stored anything.
// It fails with a [*FormatError] for a directory of another format, and with
// [ErrDamaged] if the format can't be determined, and with a [*MigrationError] for one
// that was migrated or is being migrated. It is idempotent, and several processes may
// call it at once.
func Check(dir string) error { return CheckMigrating(dir, "") }

// checkFormat is Check without a look for a migration.
func checkFormat(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	found, err := read(dir)
	if errors.Is(err, fs.ErrNotExist) {
		entries, listErr := os.ReadDir(dir)
		if listErr != nil {
			return fmt.Errorf("list data directory: %w", listErr)
		}
		if !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return slices.Contains(stores, e.Name()) }) {
			if err := write(dir); err != nil {
				return fmt.Errorf("write format of data directory: %w", err)
			}
			return nil
		}
		// A server writes the format before it stores anything. Another process may
		// have done both since the format was read, so it is read again.
		found, err = read(dir)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if found < oldest || found > Format {
		return &FormatError{Dir: dir, Found: found, Want: Format}
	}
	return nil
}

// read returns the number in a directory's FORMAT file.
func read(dir string) (int, error) {
	path := filepath.Join(dir, file)
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("read format of data directory: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return 0, fmt.Errorf("read format of data directory: %w", err)
	}
	text := strings.TrimSpace(string(b))
	n, err := strconv.ParseUint(text, 10, 31)
	if err == nil && n > 0 {
		return int(n), nil
	}
	has := fmt.Sprintf("has %q", text)
	if text == "" {
		has = "is empty"
	}
	return 0, fmt.Errorf("read format of data directory: %w: %s %s. "+
		"It is written atomically, so this is no trace of a crash: the file was changed, or the disk is damaged. "+
		"If the directory is of this pagestream, write %d into the file; else restore a backup",
		ErrDamaged, path, has, Format)
}

// Convert raises the number of a directory that [Check] accepts. An older version refuses it from then on, so this is for
// who is about to write to it. It is idempotent.
func Convert(dir string) error {
	found, err := read(dir)
	if err != nil || found == Format {
		return err
	}
	if err := write(dir); err != nil {
		return fmt.Errorf("convert data directory: %w", err)
	}
	return nil
}

// write writes the format. Two processes may do so at the same time.
func write(dir string) error {
	return disk.Replace(filepath.Join(dir, file), fmt.Appendln(nil, Format))
}
