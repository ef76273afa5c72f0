package meta

import (
	"fmt"
	"slices"
	"time"
)

// JudgeInstall returns the problems of the installation, an empty list if there are
// none.
func JudgeInstall(in Install) []Finding {
	out := append([]Finding{}, judgeSpace(in.Space)...)
	if in.Storable > 0 && in.MaxBody > in.Storable {
		out = append(out, Finding{
			Cause: StateBodyTooLarge, Severity: Wrong,
			Summary: "The NATS server does not take the largest deliveries: they are answered 413, and Meta gives them up.",
			Evidence: []string{fmt.Sprintf("webhook.max_body is %d bytes, and what is certain to be stored is %d",
				in.MaxBody, in.Storable)},
			Do: []string{
				"raise max_payload of the NATS server to more than twice webhook.max_body, or",
				fmt.Sprintf("set webhook.max_body to at most %d, so that larger ones are refused before they are read", in.Storable),
			},
		})
	}
	out = append(out, judgeDurability(in.Durability)...)
	if len(in.Refused) > 0 || in.NotStored > 0 {
		f := Finding{
			Cause: StateNotStoring, Severity: Wrong,
			Summary:  "Deliveries are or were answered 503 because they could not be stored.",
			Evidence: slices.Clone(in.Refused),
			Do:       []string{"pagestream status", "see that the disk has room and the log what failed"},
		}
		if slices.ContainsFunc(in.Space, Space.StopsIngest) {
			f.Because = StateSpaceLow
		} else if in.Durability != nil && !in.Durability.Accepted {
			f.Because = first(out, StateMayLoseEvents)
		}
		if in.NotStored > 0 {
			f.Evidence = append(f.Evidence,
				fmt.Sprintf("%d deliveries were answered 503 in the last hour; Meta sends them again", in.NotStored))
		}
		if len(in.Refused) == 0 { // it has ended, and nothing was lost
			f.Severity = Warning
		}
		out = append(out, f)
	}
	if in.Lost != "" {
		out = append(out, Finding{
			Cause: StateEventsLost, Severity: Wrong,
			Summary: "The stream has lost events: files of its store are missing or damaged. " +
				"Nothing is thrown away, and no read model is rebuilt meanwhile.",
			Evidence: []string{in.Lost},
			Do: []string{
				"pagestream recover", "restore a backup that has them, or accept the loss: pagestream recover --accept-loss",
			},
		})
	}
	if in.Behind != "" {
		out = append(out, Finding{
			Cause: StateModelsBehind, Severity: Wrong,
			Summary:  "The read models are behind the stream: what follows is as of an earlier event.",
			Evidence: []string{in.Behind}, Do: []string{"pagestream status"}, Because: first(out, StateSpaceLow),
		})
	}
	if in.BadSignatures > 0 && in.BadSignatures*10 >= in.BadSignatures+in.Accepted {
		out = append(out, Finding{
			Cause: StateAppSecretWrong, Severity: Wrong,
			Summary: "Deliveries come that none of the configured app secrets has signed: " +
				"a secret is wrong or was changed at Meta.",
			Evidence: []string{
				fmt.Sprintf("%d deliveries were answered 401 in the last hour, %d were accepted",
					in.BadSignatures, in.Accepted),
			},
			Do: []string{
				"copy the app secret from the app's dashboard (Settings, Basic) to apps[].secrets, before the old one",
				"pagestream config check", "restart pagestream serve",
			},
		})
	}
	if in.Slow > 0 && in.P99 >= SlowAnswer {
		f := Finding{
			Cause: StateEndpointSlow, Severity: Warning, Summary: "Answers to deliveries take long.",
			Evidence: []string{
				fmt.Sprintf("99 of 100 answers of the last hour took up to %s, %d took over %s",
					in.P99.Round(10*time.Millisecond), in.Slow, SlowAnswer),
				fmt.Sprintf("Meta gives up after %s and unsubscribes a page after an hour of that", Timeout),
			},
			Do: []string{"pagestream status", "look at the disk's time to sync, and at what else uses it"},
		}
		if in.P99 >= Timeout {
			f.Severity = Wrong
		}
		out = append(out, f)
	}
	for _, a := range in.Apps {
		out = append(out, judgeApp(a)...)
	}
	if in.AllSilent {
		out = append(out, Finding{
			Cause: StateAllSilent, Severity: Wrong,
			Summary:  "Nearly all pages have fallen silent at once: deliveries don't reach us.",
			Evidence: []string{"each page brings far less than its own rhythm says"},
			Do: []string{
				"look at the app's dashboard (Webhooks, Alerts)", "https://metastatus.com",
				"pagestream backfill PAGE --since … once it is over",
			},
			Because: first(out,
				StateEndpointUnreachable, StateAppSecretWrong, StateNotStoring, StateEndpointSlow, StateAppNotSubscribed,
				StateCallbackElsewhere),
		})
	}
	return out
}

// judgeApp returns the problems of an app and its callback URL.
func judgeApp(a AppFacts) (out []Finding) {
	setup := SetupCommand(a.Name)
	reachable := a.Endpoint == "" || a.Reached
	if !reachable {
		out = append(out, Finding{
			Cause: StateEndpointUnreachable, Severity: Wrong,
			Summary:  "The callback URL of app " + a.Name + " can't be reached, or another server answers there.",
			Evidence: []string{"a handshake at " + a.Endpoint + " failed: " + a.Trouble},
			Do:       []string{"look at the proxy, TLS certificate and DNS in front of http.public", "pagestream doctor"},
		})
	}
	for _, d := range a.Lacks {
		f := Finding{Severity: Warning, Evidence: d.Words(), Do: []string{setup}}
		if !reachable {
			f.Because = StateEndpointUnreachable
		}
		switch {
		case d.NotSubscribed, d.Inactive:
			f.Cause = StateAppNotSubscribed
			f.Summary = "Meta delivers nothing of the object " + d.Object + " to app " + a.Name + "."
			if d.Object == ObjectPage {
				f.Severity = Wrong
			}
		case d.Elsewhere != "" && reachable:
			f.Cause = StateCallbackElsewhere
			f.Summary = "Meta delivers app " + a.Name + " to a URL that is not ours."
			f.Evidence = append(f.Evidence, "ours is "+a.Endpoint)
			f.Do = []string{
				setup + " changes it; if it is only another name for ours, set http.base_url to that name instead",
			}
		case len(d.Missing) > 0:
			f.Cause = StateAppLacksFields
			f.Summary = "App " + a.Name + " is not subscribed to every field of the object " + d.Object + " that is wanted."
		default:
			continue
		}
		if d.Object == ObjectInstagram {
			f.Do = append(f.Do, "if Meta refuses the object instagram there: the app's dashboard (Webhooks, Instagram)")
		}
		out = append(out, f)
	}
	return append(out, judgeVersion(a)...)
}
