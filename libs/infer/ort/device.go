//go:build cgo && !windows

package ort

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

// The runtime's C API is a table of functions to which entries are only ever added, so a place in it is for ever.
// These are the ones that the Go binding leaves out, for memory that is not the processor's.
enum {
	GET_ERROR_MESSAGE = 2,
	CREATE_TENSOR_WITH_DATA = 49,
	CREATE_MEMORY_INFO = 68,
	ALLOCATOR_ALLOC = 75,
	ALLOCATOR_FREE = 76,
	RELEASE_STATUS = 93,
	RELEASE_MEMORY_INFO = 94,
	RELEASE_VALUE = 96,
	CREATE_ALLOCATOR = 131,
	RELEASE_ALLOCATOR = 132,
	SYNCHRONIZE_INPUTS = 202,
	SYNCHRONIZE_OUTPUTS = 203
};
#define API_VERSION 24
#define ALLOCATOR_DEVICE 0
#define MEMORY_DEFAULT 0

typedef struct { const void *(*get_api)(uint32_t version); const char *(*version)(void); } api_base;
typedef void *status;
typedef void **table;

// device_api returns the table of the library at path, which is open already; NULL if it has none.
static table device_api(const char *path) {
	void *library = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
	if (!library) return NULL;
	const api_base *(*base)(void) = (const api_base *(*)(void))dlsym(library, "OrtGetApiBase");
	table t = base ? (table)base()->get_api(API_VERSION) : NULL;
	dlclose(library); // only this count of it: it stays open
	return t;
}
static const char *message(table t, status s) { return ((const char *(*)(status))t[GET_ERROR_MESSAGE])(s); }
static void release(table t, int which, void *x) { ((void (*)(void *))t[which])(x); }
static status memory_info(table t, const char *name, int id, void **out) {
	return ((status (*)(const char *, int, int, int, void **))t[CREATE_MEMORY_INFO])(name, ALLOCATOR_DEVICE, id, MEMORY_DEFAULT, out);
}
static status allocator(table t, void *session, void *info, void **out) {
	return ((status (*)(void *, void *, void **))t[CREATE_ALLOCATOR])(session, info, out);
}
static status take(table t, void *allocator, size_t n, void **out) {
	return ((status (*)(void *, size_t, void **))t[ALLOCATOR_ALLOC])(allocator, n, out);
}
static status give(table t, void *allocator, void *p) {
	return ((status (*)(void *, void *))t[ALLOCATOR_FREE])(allocator, p);
}
static status tensor(table t, void *info, uintptr_t p, size_t bytes, const int64_t *shape, size_t rank, int type, void **out) {
	return ((status (*)(void *, void *, size_t, const int64_t *, size_t, int, void **))t[CREATE_TENSOR_WITH_DATA])(info, (void *)p, bytes, shape, rank, type, out);
}
static status synchronize(table t, int which, void *binding) { return ((status (*)(void *))t[which])(binding); }
*/
import "C"

import (
	"bytes"
	"errors"
	"fmt"
	"unsafe"

	onnx "github.com/yalue/onnxruntime_go"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/onnx/graph"
)

// The binding keeps the handles of C in structs of one pointer. These lines do not compile, or the test of the
// device fails, where a later version does otherwise.
var (
	_ [unsafe.Sizeof(uintptr(0))]byte = [unsafe.Sizeof(onnx.ValueInternalData{})]byte{}
	_ [unsafe.Sizeof(uintptr(0))]byte = [unsafe.Sizeof(onnx.IoBinding{})]byte{}
	_ [unsafe.Sizeof(uintptr(0))]byte = [unsafe.Sizeof(onnx.DynamicAdvancedSession{})]byte{}
)

// sessionHandle is the runtime's session: the first field of the binding's.
func sessionHandle(s *onnx.DynamicAdvancedSession) unsafe.Pointer {
	inner := *(*unsafe.Pointer)(unsafe.Pointer(s))
	return *(*unsafe.Pointer)(inner)
}

// Memory is memory of the device that a session computes on. What is in it stays there between runs: keys and
// values, adapters. Not safe for concurrent use; the session must outlive it.
type Memory struct {
	s               *Session
	api             C.table
	info, allocator unsafe.Pointer
	at              unsafe.Pointer
	bytes           int64
	dtype           DType
	copies          *copies
}

// onnx is what the runtime calls the type.
func (d DType) onnx() C.int { return [...]C.int{1, 10, 16}[d] }

func (d DType) graph() graph.DType {
	return [...]graph.DType{graph.Float32, graph.Float16, graph.BFloat16}[d]
}

// Allocate reserves memory for n elements on the device of the session: the GPU with CUDA, else this machine's
// memory. What is in it at first is not known. It returns a State error where the device has not as much.
func (s *Session) Allocate(d DType, n int64) (*Memory, error) {
	if n <= 0 || d > BFloat16 {
		return nil, clara.Errorf(clara.Invalid, "allocate %d elements of type %d", n, d)
	}
	m := &Memory{s: s, api: s.api.t, bytes: n * d.size(), dtype: d}
	name := "Cpu"
	if s.provider == CUDA {
		name = "Cuda"
	}
	device := C.CString(name)
	defer C.free(unsafe.Pointer(device))
	err := s.api.status(C.memory_info(m.api, device, C.int(s.device), &m.info))
	if err == nil {
		err = s.api.status(C.allocator(m.api, sessionHandle(s.s), m.info, &m.allocator))
	}
	if err == nil {
		err = s.api.status(C.take(m.api, m.allocator, C.size_t(m.bytes), &m.at))
	}
	if err == nil {
		m.copies, err = newCopies(s, d)
	}
	if err != nil {
		return nil, errors.Join(clara.Errorf(clara.State, "allocate %d MiB on %s device %d: %w", m.bytes>>20, name, s.device, err), m.Close())
	}
	return m, nil
}

// deviceAPI is the runtime's table of functions.
type deviceAPI struct{ t C.table }

func openDeviceAPI(library string) (deviceAPI, error) {
	path := C.CString(library)
	defer C.free(unsafe.Pointer(path))
	if t := C.device_api(path); t != nil {
		return deviceAPI{t}, nil
	}
	return deviceAPI{}, clara.Errorf(clara.State, "open ONNX Runtime %s: it has no C API of version %d", library, C.API_VERSION)
}

// status takes what a call returned.
func (a deviceAPI) status(s C.status) error {
	if s == nil {
		return nil
	}
	defer C.release(a.t, C.RELEASE_STATUS, unsafe.Pointer(s))
	return errors.New(C.GoString(C.message(a.t, s)))
}

// hasDriver reports whether the driver of the GPU's maker can be opened.
func hasDriver() bool {
	name := C.CString("libcuda.so.1")
	defer C.free(unsafe.Pointer(name))
	library := C.dlopen(name, C.RTLD_LAZY)
	if library == nil {
		return false
	}
	C.dlclose(library)
	return true
}

// Len is the number of elements.
func (m *Memory) Len() int64 { return m.bytes / m.dtype.size() }

// Close gives the memory back. No view of it may be bound any more.
func (m *Memory) Close() error {
	var err error
	if m.copies != nil {
		err = m.copies.close()
	}
	if m.at != nil {
		err = errors.Join(err, m.s.api.status(C.give(m.api, m.allocator, m.at)))
	}
	if m.allocator != nil {
		C.release(m.api, C.RELEASE_ALLOCATOR, m.allocator)
	}
	if m.info != nil {
		C.release(m.api, C.RELEASE_MEMORY_INFO, m.info)
	}
	m.copies, m.at, m.allocator, m.info = nil, nil, nil, nil
	return err
}

// View is a tensor over the elements from at on, to be bound as input, output or both. Invalid if it does not fit.
func (m *Memory) View(at int64, shape ...int64) (*Value, error) {
	return m.ViewAs(m.dtype, at, shape...)
}

// ViewAs is View of the memory as elements of another type: at and shape count these.
func (m *Memory) ViewAs(d DType, at int64, shape ...int64) (*Value, error) {
	if d > BFloat16 {
		return nil, clara.Errorf(clara.Invalid, "view of type %d", d)
	}
	size := d.size()
	total, n := m.bytes/size, int64(1)
	for _, d := range shape {
		if d < 0 || d > 0 && n > total/d {
			return nil, clara.Errorf(clara.Invalid, "view of shape %v of a memory of %d elements", shape, total)
		}
		n *= d
	}
	if at < 0 || len(shape) == 0 || n > total-at {
		return nil, clara.Errorf(clara.Invalid, "view of shape %v at %d of a memory of %d elements", shape, at, total)
	}
	v, err := m.s.api.tensor(m.info, uintptr(m.at)+uintptr(at*size), d, n, shape)
	if err != nil {
		return nil, err
	}
	return &Value{v: v, device: true, memory: m}, nil
}

// tensor is a value over n elements of memory that info describes.
func (a deviceAPI) tensor(info unsafe.Pointer, at uintptr, d DType, n int64, shape []int64) (*foreign, error) {
	var handle unsafe.Pointer
	s := C.tensor(a.t, info, C.uintptr_t(at), C.size_t(n*d.size()), (*C.int64_t)(unsafe.Pointer(&shape[0])), C.size_t(len(shape)), d.onnx(), &handle)
	if err := a.status(s); err != nil {
		return nil, fmt.Errorf("make tensor of shape %v: %w", shape, err)
	}
	v := &foreign{api: a.t, handle: handle, shape: onnx.NewShape(shape...)}
	*(*unsafe.Pointer)(unsafe.Pointer(&v.internals)) = handle
	return v, nil
}

// wrapHalf is wrap of what the binding has no type for.
func wrapHalf(v *Value, shape []int64, d Half) (onnx.Value, error) {
	if d.Type != Float16 && d.Type != BFloat16 {
		return nil, clara.Errorf(clara.Invalid, "type %d is no half", d.Type)
	}
	runtimeOnce.Lock()
	library := runtimeOnce.library
	runtimeOnce.Unlock()
	if library == "" {
		return nil, clara.Errorf(clara.State, "ONNX Runtime is not open yet")
	}
	api, err := openDeviceAPI(library)
	if err != nil {
		return nil, err
	}
	name := C.CString("Cpu")
	defer C.free(unsafe.Pointer(name))
	var info unsafe.Pointer
	if err := api.status(C.memory_info(api.t, name, 0, &info)); err != nil {
		return nil, err
	}
	defer C.release(api.t, C.RELEASE_MEMORY_INFO, info) // the tensor keeps a copy
	at := new(uint16)                                   // the runtime wants an address, of nothing too
	if len(d.Bits) > 0 {
		at = &d.Bits[0]
	}
	v.pin.Pin(at)
	return api.tensor(info, uintptr(unsafe.Pointer(at)), d.Type, int64(len(d.Bits)), shape)
}

// Constant makes a tensor that runs read and never write. On a GPU it is copied there once; else it is a Value over
// the tensor's own memory. Integers stay here and are copied at each run.
func (s *Session) Constant(t Tensor) (*Value, error) {
	data, ok := t.Data.([]float32)
	as := Float32
	if h, half := t.Data.(Half); half {
		data, as, ok = h.words(), h.Type, true
	}
	if s.provider != CUDA || !ok || len(data) == 0 {
		return NewValue(t)
	}
	if err := t.check(); err != nil {
		return nil, err
	}
	m, err := s.Allocate(Float32, int64(len(data)))
	if err != nil {
		return nil, err
	}
	err = m.Write(0, data)
	var v *Value
	if err == nil {
		v, err = m.ViewAs(as, 0, t.Shape...)
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	v.owns = true
	return v, nil
}

// words is the data two numbers at a time, which is how a device's memory is written: a copy leaves bits as they are.
func (h Half) words() []float32 {
	words := make([]float32, (len(h.Bits)+1)/2)
	copy(BitsOf(words), h.Bits)
	return words
}

// Write copies data, of float32, to the elements from at on of a Memory of Float32.
func (m *Memory) Write(at int64, data []float32) error {
	if len(data) == 0 {
		return nil
	}
	if m.dtype != Float32 {
		return clara.Errorf(clara.Unsupported, "write float32 to memory of another type")
	}
	return m.between(at, data, m.copies.run)
}

// Read copies elements from at on to data.
func (m *Memory) Read(data []float32, at int64) error {
	if len(data) == 0 {
		return nil
	}
	if m.dtype != Float32 {
		return clara.Errorf(clara.Unsupported, "read float32 from memory of another type")
	}
	return m.between(at, data, func(here, there *Value) error { return m.copies.run(there, here) })
}

func (m *Memory) between(at int64, data []float32, f func(here, there *Value) error) error {
	here, err := NewValue(Of(data, int64(len(data))))
	if err != nil {
		return err
	}
	defer here.Close()
	there, err := m.View(at, int64(len(data)))
	if err != nil {
		return err
	}
	defer there.Close()
	return f(here, there)
}

// Move copies n elements within the memory; the two parts may not overlap.
func (m *Memory) Move(to, from, n int64) error {
	if n == 0 || to == from {
		return nil
	}
	if to < from+n && from < to+n {
		return clara.Errorf(clara.Invalid, "move %d elements from %d to %d: the parts overlap", n, from, to)
	}
	a, err := m.View(from, n)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := m.View(to, n)
	if err != nil {
		return err
	}
	defer b.Close()
	return m.copies.run(a, b)
}

// copies moves numbers with a model that gives back what it gets: the runtime then knows which memory is where, and
// no library of the device's maker is needed here.
type copies struct {
	s *Session
	b *Binding
}

func newCopies(s *Session, d DType) (*copies, error) {
	g := graph.New("copy")
	g.Output("to", g.Input("from", d.graph(), graph.Named("N")))
	var model bytes.Buffer
	if _, err := g.WriteTo(&model); err != nil {
		return nil, err
	}
	c := &copies{}
	var err error
	if c.s, err = OpenBytes(model.Bytes(), Options{Threads: 1, Provider: s.provider, Device: s.device}); err != nil {
		return nil, err
	}
	if c.b, err = c.s.Bind(); err != nil {
		return nil, errors.Join(err, c.s.Close())
	}
	return c, nil
}

func (c *copies) run(from, to *Value) error {
	if err := errors.Join(c.b.In("from", from), c.b.Out("to", to)); err != nil {
		return err
	}
	return c.b.Run()
}

func (c *copies) close() error {
	c.b.Close()
	return c.s.Close()
}

// foreign is a value whose handle was made here. It is of no use to the binding but to be bound.
type foreign struct {
	onnx.Value // lends the methods whose types have no names outside
	api        C.table
	handle     unsafe.Pointer
	shape      onnx.Shape
	internals  onnx.ValueInternalData
}

func (f *foreign) GetInternals() *onnx.ValueInternalData { return &f.internals }
func (f *foreign) GetShape() onnx.Shape                  { return f.shape }
func (f *foreign) GetONNXType() onnx.ONNXType            { return onnx.ONNXTypeTensor }
func (f *foreign) ZeroContents()                         {}
func (f *foreign) Destroy() error {
	C.release(f.api, C.RELEASE_VALUE, f.handle)
	return nil
}

// synchronize waits until what was copied to the device, or from it, is there.
func (b *Binding) synchronize(inputs bool) error {
	which := C.int(C.SYNCHRONIZE_OUTPUTS)
	if inputs {
		which = C.SYNCHRONIZE_INPUTS
	}
	return b.s.api.status(C.synchronize(b.s.api.t, which, *(*unsafe.Pointer)(unsafe.Pointer(b.b))))
}
