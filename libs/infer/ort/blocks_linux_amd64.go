//go:build cgo

package ort

/*
#include <stdlib.h>
#include "blocks.h"
#include "floats.h"

static int has_halves(void) { return __builtin_cpu_supports("f16c"); }
static int64_t bytes_of(const matrix *m) { return bytes(m); }
static int64_t numbers_of(const float_matrix *m) { return float_numbers(m); }

// take_source plans the matrix, or lays it to where it is to lie if that is set.
static int take_source(matrix *m, int64_t out, int64_t in, int64_t group, int bits, int halved, const void *codes, const void *scale, const void *shift) {
	source s = {.out = out, .in = in, .group = group, .bits = bits, .halved = halved, .codes = codes, .scale = scale, .shift = shift};
	if (!m->at) return plan_blocks(&s, m);
	lay_blocks(&s, m);
	return 1;
}
*/
import "C"

import (
	"bytes"
	"errors"
	"hash/maphash"
	"os"
	"path/filepath"
	"sync"
	"unsafe"

	"golang.org/x/sys/cpu"
	"golang.org/x/sys/unix"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/onnx/graph"
)

// Matrices holds matrices in blocks in the form that products of ours read, equal ones once: sessions that are given the
// same share them. It is safe for concurrent use; close it after the sessions.
type Matrices struct {
	mu     sync.Mutex
	chunks [][]byte // mapped
	free   []byte   // of the last
	seed   maphash.Seed
	held   map[likeness][]held
}

// held is a matrix: its description, in memory of C as its address goes through the runtime, and its numbers.
type held struct {
	form   unsafe.Pointer
	panels []byte
}

// likeness is what equal matrices have in common.
type likeness struct {
	out, in, group        C.int64_t
	bits, halves, shifted C.int32_t
	hash                  uint64
}

const (
	largePage  = 2 << 20
	chunkBytes = 8 * largePage
)

// NewMatrices returns an empty set.
func NewMatrices() *Matrices {
	return &Matrices{seed: maphash.MakeSeed(), held: map[likeness][]held{}}
}

// Bytes is the memory that they take.
func (s *Matrices) Bytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var n int64
	for _, list := range s.held {
		for _, m := range list {
			n += int64(len(m.panels))
		}
	}
	return n
}

// Close gives the memory back. No session may use it any more.
func (s *Matrices) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, list := range s.held {
		for _, m := range list {
			C.free(m.form)
		}
	}
	var errs []error
	for _, c := range s.chunks {
		errs = append(errs, unix.Munmap(c))
	}
	s.chunks, s.free, s.held = nil, nil, map[likeness][]held{}
	return errors.Join(errs...)
}

// room is n bytes that are not taken yet.
func (s *Matrices) room(n int) ([]byte, error) {
	if len(s.free) < n {
		size := (max(n, chunkBytes) + largePage - 1) &^ (largePage - 1)
		c, err := unix.Mmap(-1, 0, size+largePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return nil, clara.Errorf(clara.Unavailable, "take %d bytes for weights: %w", size, err)
		}
		s.chunks = append(s.chunks, c)
		skip := -uintptr(unsafe.Pointer(&c[0])) & (largePage - 1)
		s.free = c[skip : skip+uintptr(size)]
		_ = unix.Madvise(s.free, unix.MADV_HUGEPAGE) // of speed alone
	}
	return s.free[:n:n], nil
}

// giveBack leaves the pages of a large part that is free again to the system; it stays mapped.
func giveBack(b []byte) {
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (largePage - 1)
	if n := uintptr(len(b)); n >= skip+largePage {
		_ = unix.Madvise(b[skip:n-(n-skip)%largePage], unix.MADV_DONTNEED) // of memory alone
	}
}

// hold returns the address of a matrix; ok is false for a form that is not taken.
func (s *Matrices) hold(b graph.Blocks, codes, scale, shift []byte) (address int64, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := (*C.matrix)(C.calloc(1, C.sizeof_matrix))
	kept := false
	defer func() {
		if !kept {
			C.free(unsafe.Pointer(m))
		}
	}()
	take := func() bool {
		halved := C.int(0)
		if b.Halved {
			halved = 1
		}
		return C.take_source(m, C.int64_t(b.Out), C.int64_t(b.In), C.int64_t(b.Group), C.int(b.Bits), halved,
			unsafe.Pointer(unsafe.SliceData(codes)), unsafe.Pointer(unsafe.SliceData(scale)), unsafe.Pointer(unsafe.SliceData(shift))) != 0
	}
	if !take() {
		return 0, false, nil
	}
	to, err := s.room(int(C.bytes_of(m)))
	if err != nil {
		return 0, false, err
	}
	m.at = (*C.uint8_t)(unsafe.SliceData(to))
	take()
	address, kept = s.keep(likeness{m.out, m.in, m.group, m.bits, m.halves, m.shifted, maphash.Bytes(s.seed, to)}, held{unsafe.Pointer(m), to})
	return address, true, nil
}

// holdFloats is hold for a matrix of floats, in panels of the wider vectors or the narrower, whose parts lie one below the other.
func (s *Matrices) holdFloats(out, in int, wide bool, parts [][]byte) (address int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := (*C.float_matrix)(C.calloc(1, C.sizeof_float_matrix))
	kept := false
	defer func() {
		if !kept {
			C.free(unsafe.Pointer(m))
		}
	}()
	m.out, m.in, m.width = C.int64_t(out), C.int64_t(in), C.WIDTH_AVX2
	if wide {
		m.width = C.WIDTH_AVX512
	}
	to, err := s.room(4 * int(C.numbers_of(m)))
	if err != nil {
		return 0, err
	}
	m.at = (*C.float)(unsafe.Pointer(unsafe.SliceData(to)))
	row := 0
	for _, part := range parts {
		n := len(part) / 4 / in
		C.lay_floats(m, C.int64_t(row), C.int64_t(n), (*C.float)(unsafe.Pointer(unsafe.SliceData(part))))
		row += n
	}
	C.lay_floats(m, C.int64_t(row), C.int64_t(len(to)/4/in-row), nil) // the last panel's rest
	address, kept = s.keep(likeness{m.out, m.in, m.width, 32, 0, 0, maphash.Bytes(s.seed, to)}, held{unsafe.Pointer(m), to})
	return address, nil
}

// keep takes a matrix that lies in room's bytes, and returns its address; or that of an equal one that is there already.
func (s *Matrices) keep(like likeness, m held) (address int64, kept bool) {
	for _, other := range s.held[like] {
		if bytes.Equal(m.panels, other.panels) {
			giveBack(m.panels)
			return int64(uintptr(other.form)), false
		}
	}
	s.free = s.free[len(m.panels):]
	s.held[like] = append(s.held[like], m)
	return int64(uintptr(m.form)), true
}

// moveProducts gives the products with matrices of a model in a folder to ours, and returns the model.
func (s *Session) moveProducts(model []byte, domain, folder string, o Options) ([]byte, int, error) {
	if !cpu.X86.HasAVX2 || !cpu.X86.HasFMA || C.has_halves() == 0 {
		return model, 0, nil
	}
	to := o.Matrices
	if to == nil {
		s.matrices = NewMatrices()
		to = s.matrices
	}
	files := files{folder: folder, open: map[string][]byte{}}
	defer files.close()
	model, blocks, err := graph.MoveBlocks(model, domain, func(b graph.Blocks) (int64, bool, error) {
		var parts [3][]byte
		for i, w := range []graph.Weight{b.Codes, b.Scale, b.Shift} {
			var err error
			if parts[i], err = files.read(w); err != nil {
				return 0, false, err
			}
		}
		return to.hold(b, parts[0], parts[1], parts[2])
	})
	// In narrower vectors the runtime's products of floats are as good: there ours are for tests, so that these need no AVX-512.
	if err != nil || o.SharePages || !wide() && !o.narrow {
		return model, blocks, err
	}
	model, floats, err := graph.MoveFloats(model, domain, func(f graph.Floats) (int64, bool, error) {
		var parts [][]byte
		out := 0
		for _, p := range f.Parts {
			part, err := files.read(p.Weight)
			if err != nil {
				return 0, false, err
			}
			parts = append(parts, part)
			out += p.Out
		}
		id, err := to.holdFloats(out, f.In, !o.narrow, parts)
		return id, true, err
	})
	return model, blocks + floats, err
}

// files reads weights, by mapping their files.
type files struct {
	folder string
	open   map[string][]byte
}

// read returns a weight's bytes, which mean something until close; nil for none.
func (f files) read(w graph.Weight) ([]byte, error) {
	if w.Path == "" {
		return aligned(w.Raw), nil
	}
	all, ok := f.open[w.Path]
	if !ok {
		if !filepath.IsLocal(filepath.FromSlash(w.Path)) {
			return nil, clara.Errorf(clara.Corrupt, "open weights: path %q leaves the model's folder", w.Path)
		}
		file, err := os.Open(filepath.Join(f.folder, filepath.FromSlash(w.Path)))
		if err != nil {
			return nil, clara.Errorf(clara.Corrupt, "open weights: %w", err)
		}
		defer file.Close() // a mapping outlives it
		info, err := file.Stat()
		if err != nil {
			return nil, clara.Errorf(clara.Unavailable, "open weights: %w", err)
		}
		if info.Size() > 0 {
			if all, err = unix.Mmap(int(file.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_PRIVATE); err != nil {
				return nil, clara.Errorf(clara.Unavailable, "map weights %s: %w", w.Path, err)
			}
		}
		f.open[w.Path] = all
	}
	if w.Offset < 0 || w.Length < 0 || w.Offset > int64(len(all)) || w.Length > int64(len(all))-w.Offset {
		return nil, clara.Errorf(clara.Corrupt, "weights %s: no %d bytes at %d", w.Path, w.Length, w.Offset)
	}
	return aligned(all[w.Offset : w.Offset+w.Length]), nil
}

// aligned is b, or a copy that floats can be read from.
func aligned(b []byte) []byte {
	if uintptr(unsafe.Pointer(unsafe.SliceData(b)))&3 == 0 {
		return b
	}
	return bytes.Clone(b)
}

func (f files) close() {
	for _, m := range f.open {
		if m != nil {
			_ = unix.Munmap(m) // of memory that was read only
		}
	}
}
