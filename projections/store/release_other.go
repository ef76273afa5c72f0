//go:build !linux

package store

// ReleaseMemory does nothing on this system.
func (s *Store) ReleaseMemory() error { return nil }
