package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
)

// spare is the next segment, which is made while the last one is written.
type spare struct {
	path string

	mu      sync.Mutex
	running chan struct{} // closed when the file is made; nil if it is not being made
	file    *os.File
	size    int64
	err     error
}

// prepare begins to make a file of size bytes.
func (s *spare) prepare(size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running != nil || s.file != nil {
		return
	}
	running := make(chan struct{})
	s.running = running
	go func() {
		f, err := zeros(s.path, size)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.file, s.size, s.err, s.running = f, size, err, nil
		close(running)
	}()
}

// take returns a file of at least size bytes, which is at s.path. The caller must rename it.
func (s *spare) take(size int64) (*os.File, error) {
	s.wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	f, enough := s.file, s.err == nil && s.size >= size
	s.file, s.err = nil, nil
	if f != nil {
		if enough {
			return f, nil
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
	return zeros(s.path, size)
}

func (s *spare) wait() {
	s.mu.Lock()
	running := s.running
	s.mu.Unlock()
	if running != nil {
		<-running
	}
}

func (s *spare) close() error {
	s.wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	err := errors.Join(s.file.Close(), os.Remove(s.path))
	s.file = nil
	return err
}

// zeros makes a file of size zeros, durably but for its name.
func zeros(path string, size int64) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	block := make([]byte, min(size, 1<<20))
	for at := int64(0); err == nil && at < size; at += int64(len(block)) {
		_, err = f.WriteAt(block[:min(int64(len(block)), size-at)], at)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		_ = f.Close()
		if gone := os.Remove(path); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
		return nil, fmt.Errorf("write zeros: %w", err)
	}
	return f, nil
}
