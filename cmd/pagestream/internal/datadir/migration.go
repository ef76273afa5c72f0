package datadir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pagestream/pagestream/internal/disk"
)

// migrationFile is in both directories of a migration. It stays in the one that was left.
const migrationFile = "MIGRATION"

// Migration is on record in a data directory that was migrated, or is being migrated, and in the new one until it is
// complete.
type Migration struct {
	// ID is the same in both directories.
	ID string `json:"id"`
	// Other is the other data directory, Config the configuration of the new installation.
	Other  string `json:"other"`
	Config string `json:"config"`
	// Into is set in the new directory, and not in the one that is left.
	Into bool `json:"into,omitempty"`
	// Began is when the old directory was closed, Done when it was left for good.
	Began time.Time `json:"began"`
	Done  time.Time `json:"done,omitzero"`
	// Copied reports, in the new directory, that all streams are in the cluster.
	Copied bool `json:"copied,omitempty"`
}

// MigrationError is returned for a directory that was migrated, or is being migrated.
type MigrationError struct {
	Dir string
	Migration
}

// Error says what was done with the directory, how to go on, and how to undo it.
func (e *MigrationError) Error() string {
	mark := filepath.Join(e.Dir, migrationFile)
	switch {
	case e.Into:
		return fmt.Sprintf("data directory %s is incomplete: the migration of %s into it was interrupted. "+
			"To go on, type with the configuration of %[2]s: pagestream migrate --to %s", e.Dir, e.Other, e.Config)
	case e.Done.IsZero():
		return fmt.Sprintf("data directory %s is being migrated to the installation of %s since %s. "+
			"To go on, type: pagestream migrate --to %[2]s. To stay with the old installation, remove %[4]s; "+
			"nothing in it was changed, and a later migration begins again",
			e.Dir, e.Config, e.Began.Format(time.RFC3339), mark)
	}
	return fmt.Sprintf("data directory %s was migrated to the installation of %s at %s, and is kept as it was then. "+
		"Type: pagestream --config %[2]s serve. To serve the old directory again, without what the new installation "+
		"has stored since, stop that one and remove %[4]s",
		e.Dir, e.Config, e.Done.Format(time.RFC3339), mark)
}

// ReadMigration returns the migration that is on record in a directory. found is false if there is none.
func ReadMigration(dir string) (m Migration, found bool, err error) {
	b, err := os.ReadFile(filepath.Join(dir, migrationFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		return m, false, fmt.Errorf("read record of migration in %s: %w", dir, err)
	}
	return m, true, nil
}

// WriteMigration records a migration in a directory, or replaces its record. It is durable when it returns.
func WriteMigration(dir string, m Migration) error {
	b, err := json.Marshal(m)
	if err == nil {
		err = disk.Replace(filepath.Join(dir, migrationFile), b)
	}
	if err != nil {
		return fmt.Errorf("record migration in %s: %w", dir, err)
	}
	return nil
}

// EndMigration removes the record of a migration from a directory. It is idempotent.
func EndMigration(dir string) error {
	err := os.Remove(filepath.Join(dir, migrationFile))
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = disk.SyncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("remove record of migration from %s: %w", dir, err)
	}
	return nil
}

// CheckMigrating is [Check] for the migration with that id, whose directories nobody else can use. Check refuses them.
func CheckMigrating(dir, id string) error {
	if err := checkFormat(dir); err != nil {
		return err
	}
	m, found, err := ReadMigration(dir)
	if err == nil && found && m.ID != id {
		err = &MigrationError{Dir: dir, Migration: m}
	}
	return err
}
