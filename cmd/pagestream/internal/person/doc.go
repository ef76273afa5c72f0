// Package person writes everything that is held on a person to a directory, for the
// person's request of access: as JSON, and as a page for reading.
package person
