// Package reconcile holds what Meta does against what is wanted, page by page,
// and sets it right.
//
// Once an interval each connected page gets a task in a work queue, spread over
// the first half of the interval; whichever node takes it reads the page's
// subscription from Graph, subscribes the page again where it has drifted, and
// now and then asks about its token. Every action is an event, by package
// connect. What failed is tried again with a pause that grows, and that is read
// off the page's own history, so a restart does not shorten it.
//
// A refreshed token makes a page be subscribed again. A page that is silent
// against its own rhythm is looked at first; when nearly all are silent at once
// it is not their fault, and that is said once.
//
// Nothing here gates ingest. What is not promised: a task may be done twice, and
// [Reconciler.Status] knows only of checks made by this process.
package reconcile
