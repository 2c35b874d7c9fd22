// Package passageset writes and reads a document's passages as one blob: a line
// of JSON a passage, so that a reader needs memory for one passage only. It is
// what ingest leaves for the compressor.
package passageset

import (
	"bufio"
	"encoding/json"
	"io"
	"iter"

	"github.com/clara-suite/clara/libs/clara"
)

// maxLine bounds one passage; splitters cut far below it.
const maxLine = 16 << 20

// Write writes the passages in order.
func Write(w io.Writer, passages iter.Seq2[clara.Passage, error]) (int, error) {
	b := bufio.NewWriter(w)
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	n := 0
	for p, err := range passages {
		if err != nil {
			return n, err
		}
		if err := enc.Encode(p); err != nil {
			return n, clara.Errorf(clara.Internal, "write passage %d: %w", n, err)
		}
		n++
	}
	if err := b.Flush(); err != nil {
		return n, clara.Errorf(clara.Internal, "write passage set: %w", err)
	}
	return n, nil
}

// Read yields the passages in order. It ends with a Corrupt error, naming the line, if one does not read back;
// ordinals must count up from 0.
func Read(r io.Reader) iter.Seq2[clara.Passage, error] {
	return func(yield func(clara.Passage, error) bool) {
		s := bufio.NewScanner(r)
		s.Buffer(make([]byte, 64<<10), maxLine)
		n := 0
		for s.Scan() {
			var p clara.Passage
			if err := json.Unmarshal(s.Bytes(), &p); err != nil {
				yield(p, clara.Errorf(clara.Corrupt, "passage set line %d: %w", n+1, err))
				return
			}
			if p.Ordinal != n {
				yield(p, clara.Errorf(clara.Corrupt, "passage set line %d holds passage %d", n+1, p.Ordinal))
				return
			}
			if !yield(p, nil) {
				return
			}
			n++
		}
		if err := s.Err(); err != nil {
			yield(clara.Passage{}, clara.Errorf(clara.Corrupt, "passage set line %d: %w", n+1, err))
		}
	}
}
