package pdf

// Live returns how many instances of pdfium hold memory.
func (r *Reader) Live() int {
	r.engine.memories.mu.Lock()
	defer r.engine.memories.mu.Unlock()
	return len(r.engine.memories.all)
}
