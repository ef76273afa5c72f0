package main

import (
	"context"
	"errors"
)

// offline runs f with the streams of a server that is stopped, and nothing else.
func (c *CLI) offline(f func(context.Context, *Program) error) (err error) {
	cfg, err := c.load(nil)
	if err != nil {
		return err
	}
	log, err := newLogger(cfg.Log, c.Err)
	if err != nil {
		return err
	}
	p := NewProgram(cfg, log)
	defer func() {
		closing, cancel := context.WithTimeout(context.Background(), cfg.HTTP.ShutdownTimeout)
		defer cancel()
		err = errors.Join(err, p.Close(closing))
	}()
	if err := p.openStream(c.ctx); err != nil {
		return err
	}
	return f(c.ctx, p)
}
