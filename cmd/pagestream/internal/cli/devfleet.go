package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/dev"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
)

const (
	// fleetConnects is how many pages are connected at once.
	fleetConnects = 4
	// fleetWait is how long the first events of new pages are waited for, and fleetPoll how
	// often they are looked for.
	fleetWait = 5 * time.Second
	fleetPoll = 100 * time.Millisecond
	// fleetPatience is how long what the server can't do yet is tried again: after its start it reads the ids of the
	// last events, which takes some seconds on a slow machine.
	fleetPatience = 30 * time.Second
	// fleetConsumer is the consumer that nobody reads.
	fleetConsumer = "crm"
)

// fleet brings the server of dev into a state with something to see on each screen. It uses
// the API as an operator does. What is there from an earlier run stays as it is.
type fleet struct {
	c *CLI
	w *dev.Environment
}

func newFleet(c *CLI, w *dev.Environment) fleet { return fleet{c, w} }

// settle connects the pages that are not known yet, makes their troubles, adds a consumer, and
// prints what there is then.
func (f fleet) settle() error {
	fresh, err := f.connectNew()
	if err != nil {
		return err
	}
	reading, err := f.addConsumer()
	if err != nil {
		return err
	}
	if len(fresh) > 0 {
		if i := slices.IndexFunc(fresh, func(s dev.Shop) bool { return s.Trouble == "" }); i >= 0 {
			if err := f.w.RefuseLead(fresh[i]); err != nil {
				return fmt.Errorf("submit lead: %w", err)
			}
		}
		f.await(fresh)
	}
	return f.describe(fresh, reading)
}

// pages returns all pages of the server.
func (f fleet) pages() ([]operate.Page, error) {
	list, err := collect[operate.Page](f.c, pagesPath, nil, 0)
	if err != nil {
		return nil, fmt.Errorf("list pages: %w", err)
	}
	return list, nil
}

// connectNew connects the pages of the fleet that were never connected to the server, and makes what is
// wrong with them. It returns them.
func (f fleet) connectNew() ([]dev.Shop, error) {
	list, err := f.pages()
	if err != nil {
		return nil, err
	}
	fresh := slices.DeleteFunc(dev.Shops(), func(s dev.Shop) bool {
		return s.Company == "" || slices.ContainsFunc(list, func(p operate.Page) bool {
			return string(p.ID) == s.ID && p.State != pages.Unknown
		})
	})
	if len(fresh) == 0 {
		return nil, nil
	}
	// A page with a past comes first, because it shows as never connected until then.
	rank := func(s dev.Shop) int {
		if s.Trouble == dev.Silent {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(fresh, func(a, b dev.Shop) int { return rank(a) - rank(b) })
	tokens, err := f.w.Tokens(fresh)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if !isTerminal(f.c.Err) {
		fmt.Fprintf(f.c.Out, "connecting %d pages\n", len(fresh))
	}
	var mu sync.Mutex
	done := 0
	var work errgroup.Group
	work.SetLimit(fleetConnects)
	for _, s := range fresh {
		work.Go(func() error {
			if err := f.connect(s, tokens[s.ID]); err != nil {
				return fmt.Errorf("connect page %s: %w", s.ID, err)
			}
			mu.Lock()
			defer mu.Unlock()
			done++
			f.c.redraw("connecting pages: %d of %d", done, len(fresh))
			return nil
		})
	}
	err = work.Wait()
	f.c.redraw("")
	if err == nil {
		fmt.Fprintf(f.c.Out, "connected %d pages in %s\n", len(fresh), time.Since(began).Round(100*time.Millisecond))
	}
	return fresh, err
}

// connect connects one page and makes its trouble.
func (f fleet) connect(s dev.Shop, token string) error {
	ctx, cancel := context.WithTimeout(f.c.ctx, fleetPatience)
	defer cancel()
	for {
		_, err := post[meta.Outcome](f.c, pagesPath, nil, api.ConnectRequest{
			Page: domain.PageID(s.ID), Token: token, Company: s.Company,
			Fields: append(connect.DefaultFields(), "feed", "leadgen"),
		})
		if err == nil {
			break
		}
		// What fails because the stream does not answer, the API answers with 502.
		if !isStatus(err, http.StatusBadGateway) || backoff.Sleep(ctx, fleetPoll) != nil {
			return err
		}
	}
	verb, err := f.w.Spoil(s)
	if err == nil && verb != "" {
		_, err = post[meta.Outcome](f.c, pagesPath+"/"+url.PathEscape(s.ID)+"/"+verb, nil, nil)
	}
	return err
}

// addConsumer adds the consumer that nobody reads, if it is not there yet, and keeps the seed of its
// user in a file. It returns the command that reads it, empty if there is no such file.
func (f fleet) addConsumer() (string, error) {
	seed := filepath.Join(filepath.Dir(f.w.ConfigFile), fleetConsumer+".nk")
	list, err := whole[consumers.Consumer](f.c, consumersPath)
	if err != nil {
		return "", fmt.Errorf("list consumers: %w", err)
	}
	i := slices.IndexFunc(list, func(c consumers.Consumer) bool { return c.Name == fleetConsumer })
	var consumer consumers.Consumer
	if i >= 0 {
		consumer = list[i]
	} else {
		added, err := post[consumers.Added](f.c, consumersPath, nil, api.ConsumerRequest{Name: fleetConsumer, All: true})
		if err != nil {
			return "", fmt.Errorf("add consumer: %w", err)
		}
		consumer = added.Consumer
		if err := os.WriteFile(seed, []byte(added.Seed+"\n"), 0o600); err != nil {
			return "", fmt.Errorf("keep seed of consumer: %w", err)
		}
	}
	if _, err := os.Stat(seed); err != nil {
		return "", nil //nolint:nilerr // somebody else's consumer of that name: only its owner has the seed
	}
	return fmt.Sprintf("nats --server %s --nkey %s consumer next %s %s --count 5",
		f.w.ConsumersURL(), quoted(seed), consumer.Stream, consumer.Durable), nil
}

// await waits, for a bounded time, until the troubles of new pages show in their judgement, and until
// the lead that Graph refuses is parked.
func (f fleet) await(fresh []dev.Shop) {
	ctx, cancel := context.WithTimeout(f.c.ctx, fleetWait)
	defer cancel()
	for backoff.Sleep(ctx, fleetPoll) == nil {
		list, err := f.pages()
		dead, deadErr := f.deadLetters()
		if err != nil || deadErr != nil || len(dead) == 0 {
			continue
		}
		state := map[string]meta.Severity{}
		for _, p := range list {
			state[string(p.ID)] = p.Judgement.Severity
		}
		if !slices.ContainsFunc(fresh, func(s dev.Shop) bool {
			// A quiet page is fine, an unsubscribed one is so again soon, and a silent one not yet found to be.
			found := !slices.Contains([]dev.Trouble{"", dev.Quiet, dev.Unsubscribed, dev.Silent}, s.Trouble)
			return found && state[s.ID] == meta.Fine
		}) {
			return
		}
	}
}

func (f fleet) deadLetters() ([]projections.DeadLetter, error) {
	return collect[projections.DeadLetter](f.c, deadLettersPath, nil, 0)
}

// describe prints which pages there are, by their state, which of the new ones will fall silent, and what
// waits.
func (f fleet) describe(fresh []dev.Shop, reading string) error {
	list, err := f.pages()
	dead, deadErr := f.deadLetters()
	if err := errors.Join(err, deadErr); err != nil {
		return err
	}
	states := map[meta.State][]operate.Page{}
	companies := map[string]bool{}
	connected := 0
	for _, p := range list {
		states[p.Judgement.State] = append(states[p.Judgement.State], p)
		if p.Company != "" {
			companies[p.Company] = true
			connected++
		}
	}
	fmt.Fprintf(f.c.Out, "\n%d pages of %d companies:\n\n", connected, len(companies))
	order := slices.SortedFunc(maps.Keys(states), func(a, b meta.State) int {
		return cmp.Or(len(states[b])-len(states[a]), cmp.Compare(a, b))
	})
	writeTable(f.c, "PAGES, STATE, WHICH", order, func(state meta.State) cells {
		of := states[state]
		what := of[0].Judgement.Summary
		if of[0].Judgement.Severity != meta.Fine {
			var names []string
			for _, p := range of {
				names = append(names, inLine(cmp.Or(p.Name, string(p.ID))))
			}
			what = strings.Join(names, ", ")
		}
		return cells{fmt.Sprint(len(of)), state.Words(), what}
	})
	for _, s := range dev.Shops() {
		if s.Trouble == dev.Silent && slices.ContainsFunc(fresh, func(n dev.Shop) bool { return n.ID == s.ID }) {
			fmt.Fprintf(f.c.Out, "\nMeta has stopped sending what people write to %s, which is busy at this hour: it shows as %s "+
				"within two minutes.\n", s.Name, meta.StateSilent.Words())
		}
	}
	fmt.Fprintf(f.c.Out, "\nEvents that wait for you, because Meta does not show a lead: %d "+
		"(in the console: Streams, Dead letters).\n", len(dead))
	if reading != "" {
		fmt.Fprintf(f.c.Out, "%s is a program that reads all events over NATS. Nobody runs it, so it is behind. "+
			"This reads five events for it:\n\n  %s\n"+
			"  (nats is the command line of NATS: go install github.com/nats-io/natscli/nats@latest)\n",
			fleetConsumer, reading)
	}
	return nil
}
