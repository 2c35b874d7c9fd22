package dataset

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"

	"github.com/clara-suite/clara/libs/clara"
)

// MaxLine is the longest line that is read; a longer one is a fault.
const MaxLine = 64 << 20

// lines yields the number and text of each line that is not blank, without a
// byte-order mark. A nil text is a line over MaxLine.
func lines(r io.Reader, yield func(number int, text []byte) bool) error {
	b := bufio.NewReaderSize(r, 1<<20)
	var text []byte
	for number := 1; ; number++ {
		text = text[:0]
		long, end := false, false
		for {
			part, err := b.ReadSlice('\n')
			if !long {
				text = append(text, part...)
			}
			if len(text) > MaxLine {
				long, text = true, text[:0]
			}
			if err == nil {
				break
			}
			if errors.Is(err, io.EOF) {
				end = true
				break
			}
			if !errors.Is(err, bufio.ErrBufferFull) {
				return err
			}
		}
		if number == 1 {
			text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
		}
		trimmed := bytes.TrimSpace(text)
		if long {
			trimmed = nil
		}
		if (long || len(trimmed) > 0) && !yield(number, trimmed) {
			return nil
		}
		if end {
			return nil
		}
	}
}

// Samples reads samples of the kind (Any: each line tells). Each step yields
// either a sample or a fault; a fault does not end the loop. A failing reader
// yields one last fault for the line it failed at. name stands for the file.
func Samples(r io.Reader, name string, kind Kind) iter.Seq2[Sample, *Fault] {
	return func(yield func(Sample, *Fault) bool) {
		last := 0
		err := lines(r, func(number int, text []byte) bool {
			last = number
			if text == nil {
				return yield(Sample{}, &Fault{name, number, fmt.Sprintf("longer than %d bytes", MaxLine)})
			}
			s, err := parse(text, kind)
			if err != nil {
				return yield(Sample{}, &Fault{name, number, err.Error()})
			}
			s.File, s.Line = name, number
			return yield(s, nil)
		})
		if err != nil {
			yield(Sample{}, &Fault{name, last + 1, "read: " + err.Error()})
		}
	}
}

// open opens a file for reading, with the kind of error that fits.
func open(path string) (*os.File, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, clara.Errorf(clara.NotFound, "read data: no such file %s", path)
	}
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "read data: %w", err)
	}
	return f, nil
}

// ReadFiles reads all samples of one or more files. If any line is faulty it
// is an Invalid error whose chain holds a *Faults with all of them, of all
// files, and no samples are returned. Files without a single sample are Invalid.
func ReadFiles(kind Kind, paths ...string) ([]Sample, error) {
	var samples []Sample
	faults := &Faults{}
	for _, path := range paths {
		f, err := open(path)
		if err != nil {
			return nil, err
		}
		before := len(samples) + len(faults.List)
		for s, fault := range Samples(f, path, kind) {
			if fault != nil {
				faults.List = append(faults.List, *fault)
				continue
			}
			samples = append(samples, s)
		}
		f.Close()
		if len(samples)+len(faults.List) == before {
			return nil, clara.Errorf(clara.Invalid, "read data: %s has no samples", path)
		}
	}
	if len(faults.List) > 0 {
		return nil, clara.Errorf(clara.Invalid, "read data: %w", faults)
	}
	return samples, nil
}

// Report is the outcome of Check.
type Report struct {
	File    string         `json:"file"`
	Samples int            `json:"samples"`
	Kinds   map[Kind]int   `json:"kinds"`
	Types   map[string]int `json:"data_types"`
	// Docs counts samples by their number of documents.
	Docs map[int]int `json:"documents_per_sample"`
	// WithPositives counts samples whose pos_index holds at least one.
	WithPositives int     `json:"with_positives"`
	Faults        []Fault `json:"faults"`
}

// OK reports whether the file can be used.
func (r Report) OK() bool { return len(r.Faults) == 0 && r.Samples > 0 }

// Check reads a whole file and reports. expectedTopK, if not 0, asks for
// exactly that many documents a sample, pretraining samples excepted.
func Check(r io.Reader, name string, kind Kind, expectedTopK int) Report {
	report := Report{File: name, Kinds: map[Kind]int{}, Types: map[string]int{}, Docs: map[int]int{}}
	for s, fault := range Samples(r, name, kind) {
		if fault != nil {
			report.Faults = append(report.Faults, *fault)
			continue
		}
		report.Samples++
		report.Kinds[s.Kind]++
		report.Types[s.DataType]++
		report.Docs[len(s.Docs)]++
		if len(s.PosIndex) > 0 {
			report.WithPositives++
		}
		if expectedTopK != 0 && s.Kind != Pretrain && len(s.Docs) != expectedTopK {
			report.Faults = append(report.Faults, Fault{name, s.Line, fmt.Sprintf("%d documents where %d are expected", len(s.Docs), expectedTopK)})
		}
	}
	return report
}

// CheckFile is Check of a file.
func CheckFile(path string, kind Kind, expectedTopK int) (Report, error) {
	f, err := open(path)
	if err != nil {
		return Report{}, err
	}
	defer f.Close()
	return Check(f, path, kind, expectedTopK), nil
}
