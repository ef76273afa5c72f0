package doctor

import (
	"time"

	"github.com/pagestream/pagestream/domain"
)

// Severity says how bad a finding is.
type Severity string

// The severities. Only Wrong makes a report wrong.
const (
	Wrong   Severity = "wrong"
	Warning Severity = "warning"
	Fine    Severity = "fine"
)

// Cause is a stable name of what is the matter.
type Cause string

// The causes of a page.
const (
	Deselected           Cause = "deselected"
	TokenDead            Cause = "token_dead"
	RoleLost             Cause = "role_lost"
	PermissionMissing    Cause = "permission_missing"
	TokenExpiring        Cause = "token_expiring"
	SubscribeFailed      Cause = "subscribe_failed_unseen"
	FieldsDrifted        Cause = "fields_drifted"
	UnsubscribedByMeta   Cause = "unsubscribed_by_meta"
	UnsubscribedByOthers Cause = "unsubscribed_elsewhere"
	AppFieldMissing      Cause = "app_field_missing"
	Standby              Cause = "standby"
	Restricted           Cause = "restricted"
	Throttled            Cause = "throttled"
	GraphUnreachable     Cause = "graph_unreachable"
	Silent               Cause = "silent"
	NotConnected         Cause = "not_connected"
	Quiet                Cause = "quiet"
	Healthy              Cause = "healthy"
)

// The causes of the installation.
const (
	AppSecretWrong      Cause = "app_secret_wrong"
	EndpointUnreachable Cause = "endpoint_unreachable"
	EndpointSlow        Cause = "endpoint_slow"
	NotStoring          Cause = "not_storing"
	CallbackElsewhere   Cause = "callback_elsewhere"
	AllSilent           Cause = "all_silent"
)

// Finding is one thing that holds.
type Finding struct {
	Cause    Cause    `json:"cause"`
	Severity Severity `json:"severity"`
	// Summary is one sentence.
	Summary  string   `json:"summary"`
	Evidence []string `json:"evidence,omitempty"`
	// Do is what to type, or to do elsewhere, in order.
	Do []string `json:"do,omitempty"`
	// Because names the finding that explains this one.
	Because Cause `json:"because,omitempty"`
}

// PageReport is what was found of a page, what explains the rest first. There is
// always one finding.
type PageReport struct {
	Page     domain.PageID `json:"page"`
	Name     string        `json:"name,omitempty"`
	Findings []Finding     `json:"findings"`
}

// Report is a whole examination.
type Report struct {
	At time.Time `json:"at"`
	// Install is empty where nothing is the matter.
	Install []Finding    `json:"install"`
	Pages   []PageReport `json:"pages"`
	// Wrong says that at least one finding is.
	Wrong bool `json:"wrong"`
}
