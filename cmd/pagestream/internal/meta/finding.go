package meta

import (
	"cmp"
	"slices"
	"strings"
)

// Severity says how bad a finding is.
type Severity string

// The severities. Only Wrong makes a report wrong.
const (
	Wrong   Severity = "wrong"
	Warning Severity = "warning"
	Fine    Severity = "fine"
)

// worse reports whether s is worse than the other.
func (s Severity) worse(other Severity) bool {
	return s == Wrong && other != Wrong || s == Warning && other == Fine
}

// State is a stable name of what is the matter with a page or the installation.
type State string

// The states of a page.
const (
	StateDeselected           State = "deselected"
	StateTokenDead            State = "token_dead"
	StateRoleLost             State = "role_lost"
	StatePermissionMissing    State = "permission_missing"
	StateTokenExpiring        State = "token_expiring"
	StateSubscribeFailed      State = "subscribe_failed_unseen"
	StateSubscribing          State = "subscribing" // requested, and no answer yet
	StateFieldsDrifted        State = "fields_drifted"
	StateUnsubscribedByMeta   State = "unsubscribed_by_meta"
	StateUnsubscribedByOthers State = "unsubscribed_elsewhere"
	StateAppFieldMissing      State = "app_field_missing"
	StateStandby              State = "standby"
	StateRestricted           State = "restricted"
	StateThrottled            State = "throttled"
	StateGraphUnreachable     State = "graph_unreachable"
	StateSilent               State = "silent"
	StateNotConnected         State = "not_connected" // and sends, see [Sending]
	StateDisconnected         State = "disconnected"  // and nothing comes
	StateLinked               State = "linked"        // an Instagram account whose page is connected
	StateQuiet                State = "quiet"
	StateHealthy              State = "healthy"
)

// The states of the installation. Where all is well there is none.
const (
	StateAppSecretWrong      State = "app_secret_wrong"
	StateEndpointUnreachable State = "endpoint_unreachable"
	StateEndpointSlow        State = "endpoint_slow"
	StateNotStoring          State = "not_storing"
	StateCallbackElsewhere   State = "callback_elsewhere"
	StateAllSilent           State = "all_silent"
)

// states are what is to be said of a state beside its name: plain words, where the
// name does not have them, and what mends it.
var states = map[State]struct {
	words  string
	remedy Remedy
}{
	StateDeselected:           {"page not selected", RemedyConnect},
	StateTokenDead:            {"", RemedyConnect},
	StateRoleLost:             {"", RemedyConnect},
	StatePermissionMissing:    {"", RemedyConnect},
	StateTokenExpiring:        {"token ends soon", RemedyConnect},
	StateSubscribeFailed:      {"not subscribed", RemedyResubscribe},
	StateSubscribing:          {"", RemedyCheck},
	StateFieldsDrifted:        {"fields missing", RemedyResubscribe},
	StateUnsubscribedByMeta:   {"unsubscribed by Meta", RemedyResubscribe},
	StateUnsubscribedByOthers: {"", RemedyResubscribe},
	StateAppFieldMissing:      {"app lacks fields", ""},
	StateStandby:              {"another app owns the threads", ""},
	StateRestricted:           {"restricted by Meta", ""},
	StateThrottled:            {"Meta wants fewer calls", RemedyCheck},
	StateGraphUnreachable:     {"Graph did not answer", RemedyCheck},
	StateSilent:               {"", RemedyCheck},
	StateNotConnected:         {"not connected but sending", RemedyConnect},
	StateLinked:               {"linked to its page", ""},
	StateQuiet:                {"", RemedyCheck},
	StateAllSilent:            {"all pages silent", ""},
}

// Words returns the state in plain words, a few of them.
func (s State) Words() string {
	return cmp.Or(states[s].words, strings.ReplaceAll(string(s), "_", " "))
}

// Remedy is the verb of ours that mends a finding, empty where none does.
type Remedy string

// The remedies.
const (
	RemedyResubscribe Remedy = "resubscribe"
	RemedyCheck       Remedy = "check"
	RemedyConnect     Remedy = "connect"
)

// Finding is one thing that holds.
type Finding struct {
	Cause    State    `json:"cause"`
	Severity Severity `json:"severity"`
	// Summary is one sentence.
	Summary  string   `json:"summary"`
	Evidence []string `json:"evidence,omitempty"`
	// Do is what to type, or to do elsewhere, in order. A fine finding has none.
	Do []string `json:"do,omitempty"`
	// Remedy mends it with a button; a finding that another one explains has none.
	Remedy Remedy `json:"remedy,omitempty"`
	// Because names the finding that explains this one.
	Because State `json:"because,omitempty"`
}

// Judgement is all that holds of a page.
type Judgement struct {
	// State and Summary are those of the first finding, Severity is the worst of
	// all.
	State    State    `json:"state"`
	Severity Severity `json:"severity"`
	Summary  string   `json:"summary"`
	// Findings are never empty. What explains the rest comes first.
	Findings []Finding `json:"findings"`
}

// first returns the first finding of one of the causes, by its cause, or nothing.
func first(list []Finding, causes ...State) State {
	for _, f := range list {
		if slices.Contains(causes, f.Cause) {
			return f.Cause
		}
	}
	return ""
}
