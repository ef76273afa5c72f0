package api

import (
	"cmp"
	"log/slog"
	"math"
	"math/bits"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

const (
	// freeFailures is how many wrong tokens an address may send at once. It gets one more in each
	// failureInterval.
	freeFailures    = 20
	failureInterval = time.Second
	// maxAddresses bounds the addresses that are remembered. The one that failed least recently is
	// forgotten first.
	maxAddresses = 4096
)

// Guard protects the private listener before any of its handlers is called: it answers only to the
// listener's own host names, and limits the wrong tokens of an address. Make one with [NewGuard].
type Guard struct {
	hosts    []string
	log      *slog.Logger
	failures *lru.Cache[string, *failures]
}

// failures are the wrong tokens of one address.
type failures struct {
	limit *rate.Limiter
	count atomic.Uint64
}

// NewGuard returns a guard for a listener with these host names.
func NewGuard(hosts []string, log *slog.Logger) *Guard {
	g := &Guard{log: cmp.Or(log, slog.New(slog.DiscardHandler))}
	for _, h := range append(hosts, "localhost") {
		g.hosts = append(g.hosts, strings.ToLower(h))
	}
	g.failures, _ = lru.New[string, *failures](maxAddresses) // fails for a size below 1
	return g
}

// Hosts passes a request to next if it is for one of the listener's names or for an IP address. Any
// other name may be that of a web site which let it point here, so that its scripts could read the
// answers in the browser of somebody who is on this machine (DNS rebinding); with an address that is
// not possible. Probes of the health are answered in any case.
func (g *Guard) Hosts(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" && r.URL.Path != "/readyz" && !g.own(r.Host) {
			writeProblem(w, problem(http.StatusMisdirectedRequest,
				"this listener does not have that host name; call it by its address, or add the name to http.private_hosts"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// own reports whether the host of a request is an IP address or a name of the listener.
func (g *Guard) own(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	_, err := netip.ParseAddr(host)
	return err == nil || slices.Contains(g.hosts, host)
}

// Failures limits how many wrong tokens an address may send, in a header or to sign in, and wrong
// codes of sign-in links. Beyond that
// every token from it is refused with 429, without looking at it, until the limit permits another
// try. Right tokens don't count, and sessions are not affected.
func (g *Guard) Failures(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		signIn := r.URL.Path == "/sign-in" && (r.Method == http.MethodPost || r.URL.Query().Has("code"))
		if !signIn && r.Header.Get("Authorization") == "" {
			next.ServeHTTP(w, r)
			return
		}
		address := remote(r)
		f, known := g.failures.Get(address)
		if known && f.limit.Tokens() < 1 {
			g.failed(address)
			p := problem(http.StatusTooManyRequests, "too many wrong tokens from this address; try again later")
			p.RetryAfter = int(math.Ceil((1 - f.limit.Tokens()) * failureInterval.Seconds()))
			writeProblem(w, p)
			return
		}
		answer := &statusWriter{ResponseWriter: w}
		next.ServeHTTP(answer, r)
		if answer.status == http.StatusUnauthorized || signIn && answer.status == http.StatusForbidden {
			g.failed(address)
		}
	})
}

// failed counts a wrong token. It is logged at counts that are powers of two, so that a flood can't
// fill the log.
func (g *Guard) failed(address string) {
	f := &failures{limit: rate.NewLimiter(rate.Every(failureInterval), freeFailures)}
	if before, known, _ := g.failures.PeekOrAdd(address, f); known {
		f = before
	}
	g.failures.Get(address) // it is used now
	f.limit.Allow()
	if n := f.count.Add(1); bits.OnesCount64(n) == 1 {
		g.log.Warn("wrong token", "remote", address, "failures", n)
	}
}

// remote returns the address of a request's client. The addresses of an IPv6 network of 64 bits are
// one, because its owner has all of them.
func remote(r *http.Request) string {
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	ip := addr.Addr().Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	network, _ := ip.Prefix(64) // fails for an IPv4 address
	return network.String()
}

// statusWriter records the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// Unwrap returns the writer for [http.ResponseController].
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader records the status.
func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}
