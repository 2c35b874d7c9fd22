package embedded

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"

	"github.com/clara-suite/clara/libs/clara"
)

// A record of the log is a header of 24 bytes, all little-endian, and a body:
//
//	magic u32 | body length u32 | sequence u64 | CRC-32C of the body u32 | CRC-32C of the 20 bytes before u32
//
// The sequence counts from 0. Records follow each other without gaps, and a
// record is only written when the one before it is synced: so after a crash the
// last one alone can be incomplete.
const (
	logMagic  = 0x31574c43 // "CLW1"
	logHeader = 24
)

// appendLog is a file of records.
type appendLog struct {
	f    logFile
	path string
	size int64
	seq  uint64
}

// logFile is what a log needs of a file; tests put failing ones in its place.
type logFile interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Truncate(size int64) error
	Close() error
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func frame(body []byte, seq uint64) []byte {
	r := make([]byte, logHeader, logHeader+len(body))
	binary.LittleEndian.PutUint32(r, logMagic)
	binary.LittleEndian.PutUint32(r[4:], uint32(len(body)))
	binary.LittleEndian.PutUint64(r[8:], seq)
	binary.LittleEndian.PutUint32(r[16:], checksum(body))
	binary.LittleEndian.PutUint32(r[20:], checksum(r[:20]))
	return append(r, body...)
}

// openLog reads all records, in order, and cuts off a torn last one; torn is how many bytes that were.
// each gets a record's body, which is not kept, and where in the file it begins.
func openLog(path string, each func(body []byte, at int64) error) (l *appendLog, torn int64, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, 0, err
	}
	l = &appendLog{f: f, path: path}
	if torn, err = l.replay(each); err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return l, torn, nil
}

func (l *appendLog) replay(each func(body []byte, at int64) error) (torn int64, err error) {
	end, err := l.f.(*os.File).Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	if l.size, l.seq, err = l.walk(end, each); err != nil || l.size == end {
		return 0, err
	}
	later, err := l.search(l.size+1, end)
	if err != nil {
		return 0, err
	}
	if later >= 0 {
		return 0, clara.Errorf(clara.Corrupt, "%s: the record at byte %d is damaged, and a whole one follows at byte %d: this is no torn write; restore the folder from a copy, or remove the collection and index it again", l.path, l.size, later)
	}
	if err := l.f.Truncate(l.size); err != nil {
		return 0, err
	}
	return end - l.size, l.f.Sync()
}

// walk reads whole records from the beginning up to a place. It returns where the last of them ends and how many there are.
func (l *appendLog) walk(end int64, each func(body []byte, at int64) error) (at int64, n uint64, err error) {
	var body []byte
	for at < end {
		if body, err = l.read(at, end, n, body); err != nil || body == nil {
			return at, n, err
		}
		if err := each(body, at+logHeader); err != nil {
			return at, n, clara.Errorf(clara.Corrupt, "%s: record %d at byte %d: %w", l.path, n, at, err)
		}
		at += logHeader + int64(len(body))
		n++
	}
	return at, n, nil
}

// read returns the body of the record at a place, into buffer if it fits; nil if there is no whole record of that sequence.
func (l *appendLog) read(at, end int64, seq uint64, buffer []byte) ([]byte, error) {
	var h [logHeader]byte
	if end-at < logHeader {
		return nil, nil
	}
	if _, err := l.f.ReadAt(h[:], at); err != nil {
		return nil, err
	}
	n := int64(binary.LittleEndian.Uint32(h[4:]))
	if binary.LittleEndian.Uint32(h[:]) != logMagic || binary.LittleEndian.Uint32(h[20:]) != checksum(h[:20]) ||
		binary.LittleEndian.Uint64(h[8:]) != seq || end-at-logHeader < n {
		return nil, nil
	}
	if int64(cap(buffer)) < n || buffer == nil {
		buffer = make([]byte, n)
	}
	buffer = buffer[:n]
	if _, err := l.f.ReadAt(buffer, at+logHeader); err != nil {
		return nil, err
	}
	if checksum(buffer) != binary.LittleEndian.Uint32(h[16:]) {
		return nil, nil
	}
	return buffer, nil
}

// search looks for the header of a later record from a place on; -1 if there is none.
func (l *appendLog) search(from, end int64) (int64, error) {
	const window = 1 << 20
	buffer := make([]byte, window+logHeader)
	for at := from; at+logHeader <= end; at += window {
		n, err := l.f.ReadAt(buffer[:min(window+logHeader, end-at)], at)
		if err != nil && err != io.EOF {
			return 0, err
		}
		for i := 0; i+logHeader <= n; i++ {
			h := buffer[i : i+logHeader]
			if binary.LittleEndian.Uint32(h) == logMagic && binary.LittleEndian.Uint64(h[8:]) > l.seq &&
				binary.LittleEndian.Uint32(h[20:]) == checksum(h[:20]) {
				return at + int64(i), nil
			}
		}
	}
	return -1, nil
}

// errUnsynced is a write that may or may not be on disk.
var errUnsynced = errors.New("what the disk holds is unknown; restart the server to read it again")

// append writes a record and syncs it. It returns where its body begins. After
// an error that is errUnsynced the log must not be used any more; after any
// other, the log is as it was before.
func (l *appendLog) append(body []byte) (at int64, err error) {
	if len(body) > maxMessage {
		return 0, clara.Errorf(clara.Unsupported, "%s: a record of %d bytes", l.path, len(body))
	}
	record := frame(body, l.seq)
	if _, err := l.f.WriteAt(record, l.size); err != nil {
		if cutErr := l.f.Truncate(l.size); cutErr != nil {
			return 0, errors.Join(err, cutErr, errUnsynced)
		}
		return 0, err
	}
	if err := l.f.Sync(); err != nil {
		return 0, errors.Join(err, errUnsynced)
	}
	at = l.size + logHeader
	l.size += int64(len(record))
	l.seq++
	return at, nil
}

// addChecksum goes on with a CRC-32C over more bytes.
func addChecksum(sum uint32, b []byte) uint32 {
	return crc32.Update(sum, crc32.MakeTable(crc32.Castagnoli), b)
}
