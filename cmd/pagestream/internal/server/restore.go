package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/erase"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/seal"
	"github.com/pagestream/pagestream/internal/disk"
	"github.com/pagestream/pagestream/streams"
)

// ErrRestore is returned at start when a restore was interrupted before its streams were
// complete.
var ErrRestore = errors.New("a restore was interrupted, so events are missing")

const (
	// restoreFile is in the data directory while a restore is not finished.
	restoreFile = "RESTORE"
	// restoreModels is the directory in the data directory of the read models that only
	// serve to find what to erase. They have it, so they are deleted afterwards.
	restoreModels = "restore"
)

// restoring is the state of a restore that is not finished.
type restoring struct {
	// ID is that of the mark which keeps other nodes from the stream, see [streams.RestoringKey].
	ID string `json:"id,omitempty"`
	// Copied reports that the streams are complete: only the erasures are missing.
	Copied   bool           `json:"copied"`
	Erasures []meta.Erasure `json:"erasures,omitempty"`
}

func (p *Program) restorePath() string { return filepath.Join(p.cfg.Data.Dir, restoreFile) }

// beginRestore records that a restore has begun.
func (p *Program) beginRestore(id string, list []meta.Erasure) error {
	return p.writeRestore(restoring{ID: id, Erasures: list})
}

// copied records that the streams of a restore are complete.
func (p *Program) copied() error {
	r, found, err := p.readRestore()
	if err != nil || !found {
		return err
	}
	if p.checkpoints != nil { // what was restored is synced
		if _, err := p.checkpoints.Take(); err != nil {
			return fmt.Errorf("make the restored stream durable: %w", err)
		}
	}
	r.Copied = true
	return p.writeRestore(r)
}

// writeRestore replaces the file with the state of a restore.
func (p *Program) writeRestore(r restoring) error {
	b, err := json.Marshal(r)
	if err == nil {
		err = disk.Replace(p.restorePath(), b)
	}
	if err != nil {
		return fmt.Errorf("record restore: %w", err)
	}
	return nil
}

// readRestore returns the state of a restore; found is false if none is unfinished.
func (p *Program) readRestore() (r restoring, found bool, err error) {
	b, err := os.ReadFile(p.restorePath())
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return r, true, fmt.Errorf("read state of restore: %w", err)
	}
	return r, true, nil
}

// checkRestore reports whether a restore is not finished. [ErrRestore] is returned if its streams are not complete.
func (p *Program) checkRestore() (found bool, err error) {
	r, found, err := p.readRestore()
	if err == nil && found && !r.Copied {
		err = fmt.Errorf("%w: remove %s, and the streams with the NATS tools if nats.url is set, and restore the backup again",
			ErrRestore, p.cfg.Data.Dir)
	}
	return found, err
}

// resumeRestore carries out what an interrupted restore has left, before anything else is
// opened.
func (p *Program) resumeRestore(ctx context.Context) error {
	found, err := p.checkRestore()
	if err != nil {
		return err
	}
	if !found {
		return p.removeRestoreModels()
	}
	p.log.Info("a restore was interrupted: what was erased since the backup is erased first")
	return Offline(ctx, p.opts, func(o *operate.Offline) error {
		_, err := o.Finish(ctx)
		return err
	})
}

// finishRestore carries out the erasures of a restore. It starts read models in a directory
// of their own, and calls nothing of Meta.
func (p *Program) finishRestore(ctx context.Context) (out operate.Applied, err error) {
	r, found, err := p.readRestore()
	if err != nil || !found {
		return out, err
	}
	if err := p.removeRestoreModels(); err != nil { // of a killed process
		return out, err
	}
	// They are missing in other backups as well.
	if err := p.erasures().Merge(r.Erasures); err != nil {
		return out, err
	}
	contacts, admins, err := p.missing(ctx, r.Erasures)
	if err != nil {
		return out, err
	}
	if len(contacts)+len(admins) > 0 {
		if out, err = p.eraseAgain(ctx, contacts, admins); err != nil {
			return out, err
		}
	}
	info, err := streams.Info(ctx, p.js, streams.Name)
	if err == nil {
		err = streams.Unmark(ctx, p.js, info, streams.RestoringKey)
	}
	if err != nil {
		return out, fmt.Errorf("finish restore: %w", err)
	}
	if err := os.Remove(p.restorePath()); err != nil { // nothing would do the rest without it
		return out, fmt.Errorf("finish restore: %w", err)
	}
	return out, nil
}

func (p *Program) removeRestoreModels() error {
	if err := os.RemoveAll(filepath.Join(p.cfg.Data.Dir, restoreModels)); err != nil {
		return fmt.Errorf("remove read models of a restore: %w", err)
	}
	return nil
}

// missing returns the erasures that the restored stream does not have, or not all parts of: the contacts of
// pages, and those of persons who connected pages. The latter may be there already. What
// the stream has is carried out, which may not have been done when the copies were made.
func (p *Program) missing(ctx context.Context, list []meta.Erasure) (
	contacts map[domain.PageID]map[domain.ContactID]bool, admins []meta.AdminErasure, err error,
) {
	if err := p.ensureStream(ctx); err != nil {
		return nil, nil, err
	}
	type person struct {
		page domain.PageID
		hash string
	}
	type part struct {
		of       person
		n, parts int
	}
	wanted, hashes := map[person]time.Time{}, map[string]bool{}
	for _, e := range list {
		hashes[e.Contact] = true
		switch who := (person{e.Page, e.Contact}); {
		case e.Admin != nil:
			admins = append(admins, *e.Admin)
		case e.Time.After(wanted[who]):
			wanted[who] = e.Time
		}
	}
	eraser := erase.New(erase.Options{
		JS: p.js, Journal: p.eraseJournal(), Kept: erase.Kept{Parking: streams.NewParking(p.js, streams.Name)},
		Logger: p.log.With("part", "erase"),
	})
	recorded, parts := map[person]bool{}, map[part]bool{}
	err = eraser.Repeat(ctx, func(e streams.Stored) bool {
		d := e.Data.Erasure
		if who := (person{e.Page, d.Contact}); !e.Time.Before(wanted[who]) {
			parts[part{who, d.Part, d.Parts}] = true
			n := 1
			for parts[part{who, n, d.Parts}] {
				n++
			}
			recorded[who] = recorded[who] || n > d.Parts
		}
		return hashes[d.Contact] // also the record of what belongs to no page
	})
	if err != nil {
		return nil, nil, err
	}
	of := map[domain.PageID]map[string]bool{}
	for who := range wanted {
		if recorded[who] {
			continue
		}
		if of[who.page] == nil {
			of[who.page] = map[string]bool{}
		}
		of[who.page][who.hash] = true
	}
	contacts = map[domain.PageID]map[domain.ContactID]bool{}
	for page, hashes := range of {
		contacts[page] = map[domain.ContactID]bool{}
		_, err := streams.Read(ctx, p.js, streams.ReadOptions{
			Filters: erase.Filters(page), Malformed: func(uint64, error) error { return nil },
		}, func(e streams.Stored) error {
			for id := range erase.IDs(e) {
				if hashes[domain.ContactHash(id)] {
					contacts[page][id] = true
				}
			}
			return nil
		})
		if err != nil {
			return nil, nil, fmt.Errorf("find erased contacts: %w", err)
		}
		if len(contacts[page]) == 0 {
			delete(contacts, page)
		}
	}
	return contacts, admins, nil
}

// eraseAgain erases contacts and the data of persons who connected pages, with read models that are gone when it returns.
func (p *Program) eraseAgain(
	ctx context.Context, contacts map[domain.PageID]map[domain.ContactID]bool, admins []meta.AdminErasure,
) (out operate.Applied, err error) {
	p = p.beside()
	p.cfg.Projections.Dir = filepath.Join(p.cfg.Data.Dir, restoreModels)
	defer func() { err = errors.Join(err, p.end(), p.removeRestoreModels()) }()
	for _, stage := range []func(context.Context) error{p.openSecrets, p.startModels, p.startPublisher} {
		if err := stage(ctx); err != nil {
			return out, err
		}
	}
	p.openErasers(nil)
	run, stop := context.WithCancel(context.Background())
	p.onClose("erasers", func(context.Context) error {
		stop()
		p.reactors.Wait()
		return nil
	})
	p.reactors.Go(func() { streams.KeepRunning(run, p.log.With("reactor", "erase"), p.eraser.Run) })
	for page, list := range contacts {
		for contact := range list {
			sum, err := p.eraser.Erase(ctx, page, contact)
			if err != nil {
				return out, fmt.Errorf("erase a contact of page %s again: %w", page, err)
			}
			if out.Events += sum.Events; sum.Events > 0 {
				out.Contacts++
			}
		}
	}
	unused, err := seal.NewKeyRing() // tokens are erased, not opened
	if err != nil {
		return out, err
	}
	connector := connect.New(connect.Options{
		Graph: func(string) (connect.Graph, string, bool) { return nil, "", false },
		Pages: p.readModels(), Publisher: p.publisher, Secrets: p.secrets, Sealer: unused, Logger: p.log,
	})
	for _, a := range admins {
		const reason = "the admin has asked for their data to be deleted"
		if _, err := connector.DisconnectAdminHash(ctx, a.Hash, a.Before, reason); err != nil {
			return out, fmt.Errorf("end connections again: %w", err)
		}
		before, err := p.admins.Done(ctx, a.Request)
		if err != nil {
			return out, err
		}
		done, err := p.admins.Erase(ctx, a)
		if err != nil {
			return out, fmt.Errorf("erase the data of an admin again: %w", err)
		}
		if n := done.Events - before.Events; n > 0 {
			out.Events += n
			out.Admins++
		}
	}
	return out, nil
}
