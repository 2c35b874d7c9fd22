package pdf

import (
	"sync"

	"github.com/tetratelabs/wazero/experimental"
)

// memories gives instances their memory: from the system and not from the
// collector, so that it grows without a copy, comes cleared, is given back at
// once, and so that a watchdog can get at it while it grows.
type memories struct {
	mu  sync.Mutex
	all map[*memory]bool
}

// memory is the linear memory of one instance.
type memory struct {
	owner *memories
	max   uint64
	mu    sync.Mutex
	buf   []byte
	// mapped is all that was reserved; nil where the system gave none.
	mapped []byte
}

// Allocate makes the memory of a new instance.
func (ms *memories) Allocate(capacity, limit uint64) experimental.LinearMemory {
	m := &memory{owner: ms, max: limit}
	if m.mapped = reserve(limit); m.mapped != nil {
		m.buf = m.mapped[:0]
	} else {
		m.buf = make([]byte, 0, capacity)
	}
	ms.mu.Lock()
	defer ms.mu.Unlock()
	ms.all[m] = true
	return m
}

// of returns the memory that begins at the byte, nil if it is none of these.
func (ms *memories) of(first *byte) *memory {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	for m := range ms.all {
		m.mu.Lock()
		found := len(m.buf) > 0 && &m.buf[0] == first
		m.mu.Unlock()
		if found {
			return m
		}
	}
	return nil
}

// size is what the instance has grown to, in bytes.
func (m *memory) size() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.buf)
}

// Reallocate grows the memory. Without a reservation room is doubled, so that
// growing by pages copies little.
func (m *memory) Reallocate(size uint64) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if size > m.max {
		return nil
	}
	if size > uint64(cap(m.buf)) {
		buf := make([]byte, size, min(max(size, 2*uint64(cap(m.buf))), m.max))
		copy(buf, m.buf)
		m.buf = buf
	}
	m.buf = m.buf[:size]
	return m.buf
}

// Free gives the memory back. The instance must not run any more. A second
// call does nothing.
func (m *memory) Free() {
	m.owner.mu.Lock()
	delete(m.owner.all, m)
	m.owner.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mapped != nil {
		release(m.mapped)
	}
	m.buf, m.mapped = nil, nil
}

// spoil overwrites the memory with ones, save for n bytes at keep.
func (m *memory) spoil(keep, n uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.buf {
		if uint32(i)-keep >= n {
			m.buf[i] = 0xFF
		}
	}
}
