package server

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/pagestream/pagestream/internal/journal"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
)

// errUnshipped is returned at start when the journal has events of another stream than there is.
var errUnshipped = errors.New("the journal has acknowledged events that the stream in the data directory may lack, " +
	"and it is of another state of the stream")

// errOutdated is returned at start when the stream has events that the journal should have, and does not have.
var errOutdated = errors.New("the journal is older than the stream in the data directory, which has acknowledged events " +
	"that it lacks")

func (p *Program) journalDir() string { return filepath.Join(p.cfg.Data.Dir, "journal") }

// prepareJournal opens the files of the journal, and removes from those of the stopped embedded server what may have
// gaps after a power cut: the journal has it.
func (p *Program) prepareJournal() (err error) {
	p.checkpoints, err = embedded.OpenCheckpoints(filepath.Join(p.journalDir(), "checkpoint"), p.natsDir(), streams.Name)
	if err != nil {
		return err
	}
	p.onClose("checkpoints", func(context.Context) error { return p.checkpoints.Close() })
	p.journalFiles, err = journal.Open(journal.Options{Dir: p.journalDir(), Logger: p.log.With("part", "journal")})
	if errors.Is(err, journal.ErrDamaged) {
		return fmt.Errorf("%w; what follows can't be read, so put back a copy of the file, or of the data directory. "+
			"To go on without those events, move %s away", err, p.journalDir())
	}
	if err != nil {
		return err
	}
	p.onClose("journal files", func(context.Context) error { return p.journalFiles.Close() })
	first, last := p.journalFiles.Range()
	cut, err := p.checkpoints.Cut(first, last)
	switch {
	case errors.Is(err, embedded.ErrNewer):
		return fmt.Errorf("%w (%w): put back the journal's files, or, to go on with the stream as it is, move %s away",
			errOutdated, err, p.journalDir())
	case errors.Is(err, embedded.ErrOther):
		return p.beginAgain(err)
	case errors.Is(err, embedded.ErrOlder): // they are compared with the stream
		p.log.Warn("the stream ends before the journal's last checkpoint; it was rolled back")
		return nil
	case err != nil:
		return fmt.Errorf("read the stream's files: %w", err)
	}
	if cut {
		p.log.Info("the stream was not closed: it is read up to the last checkpoint, and the rest from the journal")
	}
	return nil
}

// beginAgain empties a journal that is of another state of the stream, for the reason why. It fails with errUnshipped if
// the journal has events that the stream may have lacked at the last checkpoint.
func (p *Program) beginAgain(why error) error {
	first, last := p.journalFiles.Range()
	if last >= first && last > p.checkpoints.Seq() {
		return fmt.Errorf("%w (%w; events %d to %d): put back the stream's files, or, to go on without those events, "+
			"move %s away", errUnshipped, why, first, last, p.journalDir())
	}
	return p.journalFiles.Begin(0)
}

// ensureImport creates the stream if there is none, for an import. That stores events which the journal does not have: so
// there is no checkpoint until it is done, and what a killed one has stored is kept.
func (p *Program) ensureImport(ctx context.Context) error {
	if err := p.makeStream(ctx, nil); err != nil || p.checkpoints == nil {
		return err
	}
	return p.checkpoints.Forget()
}

// openJournal sends to the stream what the journal has.
func (p *Program) openJournal(ctx context.Context) (err error) {
	if p.server == nil || p.journal != nil {
		return nil
	}
	p.tail = streams.NewFedTail(streams.TailOptions{Stream: streams.Name, Logger: p.log})
	p.onClose("tail of the stream", func(context.Context) error { return p.tail.Close() })
	o := streams.JournalOptions{
		Stream: streams.Name, Files: p.journalFiles, Checkpoints: p.checkpoints, Tail: p.tail,
		Logger: p.log.With("part", "journal"),
	}
	p.journal, err = streams.OpenJournal(ctx, p.js, o)
	if errors.Is(err, streams.ErrJournal) { // the stream is an older copy
		if err := p.beginAgain(err); err != nil {
			return err
		}
		p.journal, err = streams.OpenJournal(ctx, p.js, o)
	}
	if err != nil {
		return err
	}
	p.onClose("journal", p.journal.Close)
	return nil
}
