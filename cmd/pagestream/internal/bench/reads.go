package bench

import (
	"context"
	"errors"
	"os"
	"time"
)

// readers is the number of connections that read.
const readers = 16

// readPath is a resource of the API, for a page and a contact.
type readPath struct {
	name string
	path func(page, contact string) string
}

var readPaths = []readPath{
	{"pages", func(_, _ string) string { return "/api/v1/pages" }},
	{"conversations", func(page, _ string) string { return "/api/v1/pages/" + page + "/conversations" }},
	{"messages", messagesPath},
}

// readsSection measures reads with a stream of a fixed size.
func (r *run) readsSection(ctx context.Context) (err error) {
	base, err := r.answers(ctx, readers, 1)
	if err != nil {
		return err
	}
	r.step("fill")
	if err := r.fill(ctx, "reads", r.ids, uint64(r.opts.Sample)); err != nil {
		return err
	}
	s, err := r.start(ctx, "reads", r.pastWindow())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop(ctx), os.RemoveAll(s.dir)) }()
	if _, _, err := s.catchUp(ctx, catchUpStep); err != nil {
		return err
	}
	for _, p := range readPaths {
		r.step("%s", p.name)
		got, err := r.read(ctx, s, r.ids, p, r.opts.Cell)
		if err != nil {
			return err
		}
		rate := figure("reads/"+p.name, "requests/s", got.rate, base.Name, base.Value, Higher)
		rate.P50, rate.P99 = ms(got.p50), ms(got.p99)
		r.add(rate)
		r.add(figure("reads/"+p.name+"/p99", "ms", ms(got.p99), base.Name, base.P99, Lower))
	}
	return nil
}

// read measures requests for one kind of resource.
func (r *run) read(ctx context.Context, s *system, ids *traffic, p readPath, d time.Duration) (pace, error) {
	c := newClient(readers)
	defer c.close()
	if err := c.warm(ctx, "http://"+s.Private); err != nil {
		return pace{}, err
	}
	return c.drive(ctx, d, func(ctx context.Context, n int) (bool, error) {
		pageN, contactN := ids.place(uint64(n)) // another contact for each request
		return true, s.request(ctx, c, p.path(page(pageN), contact(contactN)), nil)
	})
}
