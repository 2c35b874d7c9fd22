package tensorboard

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/clara-suite/clara/libs/clara"
)

// Scalar is one point of a curve.
type Scalar struct {
	Tag   string // such as "loss/ce"; what stands before the slash groups curves
	Value float64
}

// Writer writes one event file.
type Writer struct {
	f   *os.File
	buf []byte
}

// Fields of TensorFlow's messages.
const (
	eventTime, eventStep, eventVersion, eventSummary, eventSession = 1, 2, 3, 5, 7

	summaryValue          = 1
	valueTag, valueSimple = 1, 2
	sessionStatus         = 1
	sessionStart          = 1
)

// Create makes an event file in the folder, which is made where it is not there. Curves go on from step: what earlier files
// of the folder hold of later steps, made again after a restart, is no longer shown.
func Create(dir string, step int64) (*Writer, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, clara.Errorf(clara.Unavailable, "make folder of event files: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "host"
	}
	now := time.Now()
	name := fmt.Sprintf("events.out.tfevents.%010d.%s.%d.%d", now.Unix(), host, os.Getpid(), now.Nanosecond())
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, clara.Errorf(clara.Unavailable, "make event file: %w", err)
	}
	w := &Writer{f: f}
	version := protowire.AppendTag(event(now, 0), eventVersion, protowire.BytesType)
	err = w.write(protowire.AppendString(version, "brain.Event:2"))
	if err == nil && step > 0 {
		session := protowire.AppendVarint(protowire.AppendTag(nil, sessionStatus, protowire.VarintType), sessionStart)
		e := protowire.AppendTag(event(now, step+1), eventSession, protowire.BytesType)
		err = w.write(protowire.AppendBytes(e, session))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return w, nil
}

// Add writes the scalars of a step. Values that are no numbers are written as they are: TensorBoard marks them.
func (w *Writer) Add(at time.Time, step int64, scalars ...Scalar) error {
	var summary []byte
	for _, s := range scalars {
		v := protowire.AppendString(protowire.AppendTag(nil, valueTag, protowire.BytesType), s.Tag)
		v = protowire.AppendFixed32(protowire.AppendTag(v, valueSimple, protowire.Fixed32Type), math.Float32bits(float32(s.Value)))
		summary = protowire.AppendBytes(protowire.AppendTag(summary, summaryValue, protowire.BytesType), v)
	}
	e := protowire.AppendTag(event(at, step), eventSummary, protowire.BytesType)
	return w.write(protowire.AppendBytes(e, summary))
}

// Close closes the file.
func (w *Writer) Close() error { return w.f.Close() }

// event begins an Event message.
func event(at time.Time, step int64) []byte {
	seconds := float64(at.UnixNano()) / 1e9
	b := protowire.AppendFixed64(protowire.AppendTag(nil, eventTime, protowire.Fixed64Type), math.Float64bits(seconds))
	return protowire.AppendVarint(protowire.AppendTag(b, eventStep, protowire.VarintType), uint64(step))
}

// write frames a payload and writes it at once, so that a reader meets whole records.
func (w *Writer) write(payload []byte) error {
	b := binary.LittleEndian.AppendUint64(w.buf[:0], uint64(len(payload)))
	b = binary.LittleEndian.AppendUint32(b, masked(b))
	b = append(b, payload...)
	b = binary.LittleEndian.AppendUint32(b, masked(payload))
	w.buf = b
	if _, err := w.f.Write(b); err != nil {
		return clara.Errorf(clara.Unavailable, "write event file: %w", err)
	}
	return nil
}

// masked is a CRC-32C as the format has it: turned and shifted, so that the sum of data that holds sums is not weak.
func masked(data []byte) uint32 {
	sum := crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))
	return (sum>>15 | sum<<17) + 0xa282ead8
}
