// Package comments is the read model of comments and posts: one row a comment and one
// row a post, with edits, states and the counts of reactions. A comment on an Instagram
// media object is one as well; the media object is its post.
//
// # Order
//
// The stream's order is the order of arrival, so an edit may arrive before its comment.
// Changes are ordered by event time, and by sequence within one millisecond. The state
// does not depend on the order of arrival, except for Events, for the edits that the
// limits drop, and for equal facts: a change whose item has no time of its own is folded
// into the change before it, if that is the same fact ([domain.Data.Fact]) by the same
// person within [domain.RedeliveryWindow].
//
// # Persons
//
// A row has a part for each person who changed it: what this person's events say, and
// nothing that another person's events say. What is shown is computed from all parts.
// So a contact.erased event removes exactly what the contact's events have added, and a
// rebuild without these events gives the same rows. The part of the page itself, and of
// persons whom Meta does not name, has no contact and is never erased.
//
// A removed comment has no text: it is deleted from the part of the person who removed
// it, and from all parts if the page removed it. If somebody else removed it, which Meta
// is not known to report, its text stays stored and is not shown: that person may be
// erased, and then the comment was never removed.
//
// # What is left out
//
// Test events, events without a page, reactions without a person, and reactions to the
// page itself are not applied. Reviews, mentions and live videos have no rows; comments
// on reviews do, with the review's story as their post.
package comments
