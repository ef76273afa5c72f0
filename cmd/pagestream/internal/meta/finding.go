package meta

import (
	"cmp"
	"slices"
	"strings"
)

// Severity is how serious a finding is.
type Severity string

// The severities, the most serious first. Only Wrong makes a report wrong.
const (
	Wrong   Severity = "wrong"
	Warning Severity = "warning"
	Fine    Severity = "fine"
)

// worse reports whether s is more serious than other.
func (s Severity) worse(other Severity) bool {
	return s == Wrong && other != Wrong || s == Warning && other == Fine
}

// State is a stable name of the condition of a page or of the installation.
type State string

// The states of a page.
const (
	StateDeselected           State = "deselected"
	StateTokenDead            State = "token_dead"
	StateTokenMissing         State = "token_missing" // not stored any more, or it can't be opened
	StateRoleLost             State = "role_lost"
	StatePermissionMissing    State = "permission_missing"
	StateTokenExpiring        State = "token_expiring"
	StateSubscribeFailed      State = "subscribe_failed_unseen"
	StateSubscribing          State = "subscribing" // requested, not answered yet
	StateFieldsDrifted        State = "fields_drifted"
	StateUnsubscribedByMeta   State = "unsubscribed_by_meta"
	StateUnsubscribedByOthers State = "unsubscribed_elsewhere"
	StateAppFieldMissing      State = "app_field_missing"
	StateLeadsUnreadable      State = "leads_unreadable"
	StateStandby              State = "standby"
	StateRestricted           State = "restricted"
	StateThrottled            State = "throttled"
	StateGraphUnreachable     State = "graph_unreachable"
	StateForeign              State = "foreign" // another app delivers for the page
	StateParked               State = "parked"  // read models or reactors could not apply events
	StateSilent               State = "silent"
	StateNotConnected         State = "not_connected" // with or without deliveries, see [Sending]
	StateDisconnected         State = "disconnected"  // without deliveries
	StateLinked               State = "linked"        // an Instagram account whose page is connected
	StateTest                 State = "test"          // marked as a test, and not connected
	StateQuiet                State = "quiet"
	StateHealthy              State = "healthy"
)

// The states of the installation. An installation without problems has none.
const (
	StateAppSecretWrong      State = "app_secret_wrong"
	StateEndpointUnreachable State = "endpoint_unreachable"
	StateEndpointSlow        State = "endpoint_slow"
	StateSpaceLow            State = "space_low"      // full, or nearly
	StateBodyTooLarge        State = "body_too_large" // NATS does not take what webhook.max_body allows
	StateModelsBehind        State = "read_models_behind"
	StateNotStoring          State = "not_storing"
	StateEventsLost          State = "events_lost"
	StateMayLoseEvents       State = "may_lose_events"    // NATS may lose what it has acknowledged
	StateAppNotSubscribed    State = "app_not_subscribed" // to an object, or the subscription is inactive
	StateAppLacksFields      State = "app_lacks_fields"
	StateCallbackElsewhere   State = "callback_elsewhere"
	StateGraphVersionEnds    State = "graph_version_ends"
	StateAllSilent           State = "all_silent"
)

// states has the display text of a state, where it differs from the name, and the
// action that fixes it.
var states = map[State]struct {
	words  string
	remedy Remedy
}{
	StateDeselected:           {"page not selected", RemedyConnect},
	StateTokenDead:            {"", RemedyConnect},
	StateTokenMissing:         {"", RemedyConnect},
	StateRoleLost:             {"", RemedyConnect},
	StatePermissionMissing:    {"", RemedyConnect},
	StateTokenExpiring:        {"token ends soon", RemedyConnect},
	StateSubscribeFailed:      {"not subscribed", RemedyResubscribe},
	StateSubscribing:          {"", RemedyCheck},
	StateFieldsDrifted:        {"fields missing", RemedyResubscribe},
	StateUnsubscribedByMeta:   {"unsubscribed by Meta", RemedyResubscribe},
	StateUnsubscribedByOthers: {"", RemedyResubscribe},
	StateAppFieldMissing:      {"app lacks fields", ""},
	StateLeadsUnreadable:      {"", RemedyConnect},
	StateStandby:              {"another app owns the threads", ""},
	StateRestricted:           {"restricted by Meta", ""},
	StateThrottled:            {"Meta wants fewer calls", RemedyCheck},
	StateGraphUnreachable:     {"Graph did not answer", RemedyCheck},
	StateForeign:              {"another app delivers", ""},
	StateParked:               {"events parked", RemedyRedrive},
	StateSilent:               {"", RemedyCheck},
	StateNotConnected:         {"not connected but sending", RemedyConnect},
	StateLinked:               {"linked to its page", ""},
	StateTest:                 {"test page", ""},
	StateQuiet:                {"", RemedyCheck},
	StateAllSilent:            {"all pages silent", ""},
}

// Words returns a short display text for the state.
func (s State) Words() string {
	return cmp.Or(states[s].words, strings.ReplaceAll(string(s), "_", " "))
}

// Remedy is the pagestream action that fixes a finding, empty if none does.
type Remedy string

// The remedies.
const (
	RemedyResubscribe Remedy = "resubscribe"
	RemedyCheck       Remedy = "check"
	RemedyConnect     Remedy = "connect"
	RemedyRedrive     Remedy = "redrive" // of the page's dead letters
)

// Finding is one fact about a page or the installation.
type Finding struct {
	Cause    State    `json:"cause"`
	Severity Severity `json:"severity"`
	// Summary is one sentence.
	Summary  string   `json:"summary"`
	Evidence []string `json:"evidence,omitempty"`
	// Do lists commands to type and steps to take elsewhere, in order. It is empty
	// for a finding of severity Fine.
	Do []string `json:"do,omitempty"`
	// Remedy is the action that a button can offer; it is empty if Because is set.
	Remedy Remedy `json:"remedy,omitempty"`
	// Because is the cause of the finding that explains this one, empty if none does.
	Because State `json:"because,omitempty"`
}

// Judgement is the result of judging one page.
type Judgement struct {
	// State and Summary are those of the first finding, Severity is the worst of
	// all findings.
	State    State    `json:"state"`
	Severity Severity `json:"severity"`
	Summary  string   `json:"summary"`
	// Findings are never empty. Causes come before their consequences.
	Findings []Finding `json:"findings"`
}

// first returns the cause of the first finding that has one of the causes, empty if
// there is none.
func first(list []Finding, causes ...State) State {
	for _, f := range list {
		if slices.Contains(causes, f.Cause) {
			return f.Cause
		}
	}
	return ""
}
