package embedded

// Fault makes the log of a collection fail.
type Fault struct {
	logFile
	Write, Sync, Truncate error // returned, if set
}

// WriteAt writes half of p before it fails.
func (f *Fault) WriteAt(p []byte, at int64) (int, error) {
	if f.Write == nil {
		return f.logFile.WriteAt(p, at)
	}
	n, err := f.logFile.WriteAt(p[:len(p)/2], at)
	if err == nil {
		err = f.Write
	}
	return n, err
}

type faultyFile struct{ *Fault }

func (f faultyFile) Sync() error {
	if f.Fault.Sync != nil {
		return f.Fault.Sync
	}
	return f.logFile.Sync()
}

func (f faultyFile) Truncate(size int64) error {
	if f.Fault.Truncate != nil {
		return f.Fault.Truncate
	}
	return f.logFile.Truncate(size)
}

// Break puts a Fault, none set yet, between a collection and its log.
func (s *Server) Break(name string) *Fault {
	c, err := s.store.collection(name)
	if err != nil {
		panic(err)
	}
	f := &Fault{logFile: c.s.log.f}
	c.s.log.f = faultyFile{f}
	return f
}
