// Package reconcile compares the subscription of each page at Meta with the wanted
// one, and corrects it.
//
// Once per interval each connected page gets a task in a work queue, spread over the
// first half of the interval. One of the nodes takes the task: it reads the page's
// subscription from Graph, subscribes the page again if it has drifted, and
// periodically asks about its token. Package connect records every action as an
// event. A failed attempt is repeated after a growing pause, which is computed from
// the page's own history, so that a restart does not shorten it.
//
// A refreshed token makes a page be subscribed again. A page that is silent compared
// with its own rhythm is checked first; when nearly all pages are silent at once, the
// cause is not in the pages, and one warning is logged for all of them.
//
// Ingest does not depend on this package. It is not promised that a task is done only
// once, and [Reconciler.Status] has only the checks that this process made.
package reconcile
