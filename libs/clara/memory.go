package clara

// Memory is one compressed text: m vectors of H numbers, row by row, as the
// encoder (a passage) or the query reasoner (a question) computes them
// (spec clara-model §3). It is not normalised.
type Memory struct {
	M, H int
	// Data has M*H values; row i is Data[i*H : (i+1)*H].
	Data []float32
}

// Row returns memory vector i, without copying.
func (m Memory) Row(i int) []float32 { return m.Data[i*m.H : (i+1)*m.H] }

// Check returns a Corrupt error unless Data has M*H values and both are positive.
func (m Memory) Check() error {
	if m.M <= 0 || m.H <= 0 || len(m.Data) != m.M*m.H {
		return Errorf(Corrupt, "memory of shape [%d, %d] holds %d values", m.M, m.H, len(m.Data))
	}
	return nil
}
