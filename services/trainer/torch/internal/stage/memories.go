package stage

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/trainer/torch/internal/model"
	"github.com/clara-suite/clara/services/trainer/torch/internal/net"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

// memories keeps the vectors of every document, each compressed once: the encoder is frozen in stage 3. They lie in a mapped
// file of the run, so that the system decides what stays in memory and a resumed run finds them; the ranks of a machine
// share it. A document's flag is set after its vectors, and two ranks that compress the same one write the same bytes.
type memories struct {
	net   *net.Net
	docs  [][]int32
	size  int       // bytes of a document: m * H elements of the model's type
	start int       // of the vectors in the file
	norms []float32 // of each document's memory, once nearest needs them
	data  []byte
}

const memoriesMagic = "clara memories 1\n"

// openMemories maps the file in dir; key says what the vectors depend on beside the documents. One of other documents, another
// encoder or type is made anew.
func openMemories(dir, key string, n *net.Net, docs [][]int32) (*memories, error) {
	m := &memories{net: n, docs: docs, size: n.M * n.Arch.Hidden * n.DType.Size()}
	sum := sha256.New()
	fmt.Fprintln(sum, key, n.M, n.Arch.Hidden, n.DType)
	for _, d := range docs {
		fmt.Fprintln(sum, d)
	}
	for i, p := range n.Encoder.Params {
		fmt.Fprintln(sum, n.Encoder.Names[i])
		sum.Write(p.Bytes())
	}
	header := []byte(memoriesMagic + hex.EncodeToString(sum.Sum(nil)) + "\n")
	m.start = (len(header) + len(docs) + 63) / 64 * 64
	total := int64(m.start) + int64(m.size)*int64(len(docs))

	host, err := os.Hostname()
	if err != nil {
		host = "host"
	}
	path := filepath.Join(dir, "memories."+host+".bin")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, clara.Errorf(clara.Unavailable, "keep document memories: %w", err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, clara.Errorf(clara.Unavailable, "lock %s: %w", path, err)
	}
	// Closing would not unlock: the mapping keeps the open file, and the other ranks would wait for ever.
	defer syscall.Flock(int(f.Fd()), syscall.LOCK_UN) //nolint:errcheck // it cannot fail on a file that was locked
	found := make([]byte, len(header))
	_, readErr := f.ReadAt(found, 0)
	info, err := f.Stat()
	if err != nil {
		return nil, clara.Errorf(clara.Unavailable, "keep document memories: %w", err)
	}
	if readErr != nil || !bytes.Equal(found, header) || info.Size() != total {
		if err := errors.Join(f.Truncate(0), f.Truncate(total)); err != nil {
			return nil, clara.Errorf(clara.Unavailable, "keep %d document memories in %s: %w", len(docs), path, err)
		}
		if err := allocate(f, total); err != nil {
			return nil, clara.Errorf(clara.Unavailable, "keep %d document memories of %d bytes in %s: %w", len(docs), m.size, path, err)
		}
		if _, err := f.WriteAt(header, 0); err != nil {
			return nil, clara.Errorf(clara.Unavailable, "write %s: %w", path, err)
		}
	}
	if m.data, err = syscall.Mmap(int(f.Fd()), 0, int(total), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED); err != nil {
		return nil, clara.Errorf(clara.Unavailable, "map %s: %w", path, err)
	}
	return m, nil
}

// allocate takes the space now: writing to a mapped file on a full disk would kill the process.
func allocate(f *os.File, size int64) error {
	err := syscall.Fallocate(int(f.Fd()), 0, 0, size)
	if errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.ENOSYS) {
		return nil
	}
	return err
}

func (m *memories) close() error { return syscall.Munmap(m.data) }

func (m *memories) flag(doc int) *byte { return &m.data[m.start-len(m.docs)+doc] }

func (m *memories) at(doc int) []byte {
	from := m.start + doc*m.size
	return m.data[from : from+m.size]
}

// missing returns those of docs that are not compressed yet, each once, longest first.
func (m *memories) missing(docs []int) []int {
	var out []int
	for _, d := range docs {
		if *m.flag(d) == 0 {
			out = append(out, d)
		}
	}
	slices.Sort(out)
	out = slices.Compact(out)
	slices.SortStableFunc(out, func(a, b int) int { return len(m.docs[b]) - len(m.docs[a]) })
	return out
}

// passTokens is how many tokens go through the encoder at a time where no gradient is needed.
const passTokens = 8192

// compress makes sure of these documents and returns how many tokens it took.
func (m *memories) compress(docs []int) (tokens int64, err error) {
	missing := m.missing(docs)
	for len(missing) > 0 {
		n, total := 0, 0
		var in [][]int32
		for n < len(missing) && (n == 0 || total+len(m.docs[missing[n]]) <= passTokens) {
			in = append(in, m.docs[missing[n]])
			total += len(m.docs[missing[n]])
			n++
		}
		err = torchx.Do(func(s scope) error {
			torchx.NoGrad(func() {
				out := m.net.Compress(s, in, model.Pass{Adapter: m.net.Encoder}, false).Memory.Bytes()
				for i, d := range missing[:n] {
					copy(m.at(d), out[i*m.size:(i+1)*m.size])
					*m.flag(d) = 1
				}
			})
			return nil
		})
		if err != nil {
			return tokens, err
		}
		tokens += int64(total)
		missing = missing[n:]
	}
	return tokens, nil
}

// tensor returns the memories of documents, which must be there, as [n, m*H].
func (m *memories) tensor(s scope, docs []int) tensor {
	buf := make([]byte, 0, len(docs)*m.size)
	for _, d := range docs {
		buf = append(buf, m.at(d)...)
	}
	return s.FromBytes(buf, m.net.DType, m.net.Device, int64(len(docs)), int64(m.net.M*m.net.Arch.Hidden))
}

// nearest returns, for each query of q [B, m*H], the n documents of the largest cosine, best first. All must be there.
func (m *memories) nearest(s scope, q tensor, n int) [][]int {
	const rows = 256 // documents at a time
	queries := q.Dim(0)
	scores := make([][]float32, queries)
	q = s.To(q, torchx.Float32)
	first := m.norms == nil
	for from := 0; from < len(m.docs); from += rows {
		part, done := torchx.Open()
		count := min(rows, len(m.docs)-from)
		docs := make([]int, count)
		for i := range docs {
			docs[i] = from + i
		}
		d := part.To(m.tensor(part, docs), torchx.Float32)
		if first {
			for _, x := range part.SumLast(part.Mul(d, d)).Float32s() {
				m.norms = append(m.norms, float32(math.Sqrt(float64(x))))
			}
		}
		product := part.MatMul(q, part.Transpose(d, 0, 1)).Float32s()
		for i := range scores {
			for j, x := range product[i*count : (i+1)*count] {
				scores[i] = append(scores[i], x/max(m.norms[from+j], 1e-12))
			}
		}
		done()
	}
	out := make([][]int, queries)
	for i, row := range scores {
		index := make([]int, len(row))
		for j := range index {
			index[j] = j
		}
		slices.SortStableFunc(index, func(a, b int) int { return cmp.Compare(row[b], row[a]) })
		out[i] = index[:n]
	}
	return out
}
