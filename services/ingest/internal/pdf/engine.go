package pdf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klippa-app/go-pdfium"
	"github.com/klippa-app/go-pdfium/webassembly"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/clara-suite/clara/libs/clara"
)

// engine compiles pdfium once and hands out sandboxed instances of it. An
// instance sees neither files nor network: only the bytes of its document.
type engine struct {
	cacheDir string
	gate     *gate
	// maxMemory is what one instance may grow to: a page that wants more fails.
	maxMemory int64
	memories  memories

	// closed ends what is under way when the engine is closed.
	closed context.Context
	shut   context.CancelFunc

	once sync.Once
	pool pdfium.Pool
	err  error
}

func newEngine(cfg Config) *engine {
	e := &engine{cacheDir: cfg.CacheDir, gate: newGate(cfg.Workers), maxMemory: cfg.MaxMemory}
	e.memories.all = map[*memory]bool{}
	e.closed, e.shut = context.WithCancel(context.Background())
	return e
}

// instance makes an instance for a caller that holds a place in the gate, which
// the instance's close gives back; without an instance instance gives it back
// itself. The first call compiles pdfium, which takes seconds unless the cache
// folder holds the result of an earlier process.
func (e *engine) instance(ctx context.Context) (_ *instance, err error) {
	defer func() {
		if err != nil {
			e.gate.leave()
		}
	}()
	e.once.Do(func() { e.pool, e.err = e.start() })
	if e.err != nil {
		return nil, e.err
	}
	// The pool has no bound, so nobody waits in it: see gate.
	p, err := e.pool.GetInstanceWithContext(ctx)
	if err != nil {
		return nil, clara.Errorf(clara.Internal, "start pdfium: %w", err)
	}
	in, err := newInstance(p, &e.memories)
	if err != nil {
		_ = p.Kill()
		return nil, err
	}
	in.leave = e.gate.leave
	return in, nil
}

func (e *engine) start() (pdfium.Pool, error) {
	cfg := wazero.NewRuntimeConfig().
		WithCoreFeatures(api.CoreFeaturesV2 | experimental.CoreFeaturesExceptionHandling).
		WithMemoryLimitPages(uint32(e.maxMemory >> 16))
	if e.cacheDir != "" {
		// A cache that cannot be used costs seconds, not the reading.
		if cache, err := wazero.NewCompilationCacheWithDir(e.cacheDir); err == nil {
			cfg = cfg.WithCompilationCache(cache)
		}
	}
	p, err := webassembly.Init(webassembly.Config{
		Context: experimental.WithMemoryAllocator(context.Background(), &e.memories),
		MinIdle: 0, MaxIdle: 0, MaxTotal: -1,
		// No folder is mounted: a document cannot reach files.
		FSConfig:      wazero.NewFSConfig(),
		RuntimeConfig: cfg,
		Stdout:        io.Discard,
		Stderr:        io.Discard,
	})
	if err != nil {
		return nil, clara.Errorf(clara.Internal, "compile pdfium: %w", err)
	}
	return p, nil
}

// close ends what is under way, waits for it, and frees pdfium.
func (e *engine) close() error {
	e.shut()
	e.gate.seal()
	e.once.Do(func() { e.err = errClosed })
	if e.pool == nil {
		return nil
	}
	return e.pool.Close()
}

var errClosed = clara.Errorf(clara.State, "the pdf reader is closed")

// defaultCacheDir is where compiled code is kept between processes.
func defaultCacheDir() string {
	dir := os.Getenv("CLARA_CACHE")
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return ""
		}
		dir = filepath.Join(base, "clara")
	}
	return filepath.Join(dir, "wasm")
}

// implementation is what the binding offers below its per-call wrappers. Its
// wrappers allocate and look up handles at each call, which for the calls
// made for each word costs more than pdfium itself.
type implementation interface {
	Fn(name string) api.Function
	Malloc(size uint64) (uint64, error)
	Free(pointer uint64) error
	CreateFileAccessReader(size int64, r io.ReadSeeker) (*uint64, *uint32, error)
}

// instance is one pdfium with at most one open document. It is not safe for
// concurrent use. The first fault of a call sticks in err: after it the
// instance answers zeros and is good for nothing but close.
type instance struct {
	pdfium pdfium.Pdfium
	impl   implementation
	mem    api.Memory
	memory *memory // what mem is made of
	fns    [fnCount]api.Function
	stack  [12]uint64
	// out is guest memory for out-parameters, outSize bytes.
	out uint32
	err error
	// state is shared with the watchdog of guard.
	state atomic.Int32
	// reading excludes the watchdog while a block of the file is copied in, and
	// param is where the callback for that finds the file: both are Go's part
	// of the memory.
	reading sync.Mutex
	param   uint32

	doc  uint64
	file *file
	// leave gives the instance's place in the gate back.
	leave func()
}

// States of an instance, for its watchdog.
const (
	idle     = iota // no function of pdfium is running
	running         // one is
	spoiling        // one is, and the watchdog overwrites the memory under it
	expired         // none is, and none may be started
)

// guard runs f, which calls pdfium, for at most the limit; then, or when ctx
// ends, the function under way is made to fail. The runtime could stop it by
// itself, but only with checks in every loop and call that cost most of its
// speed. Instead the watchdog fills the instance's memory with ones until the
// function trips over it: a pointer or an index out of bounds traps. The
// instance is of no use afterwards; the sandbox holds whatever its memory holds.
func (in *instance) guard(ctx context.Context, limit time.Duration, f func()) {
	if in.err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-done:
			return
		case <-ctx.Done():
		}
		for {
			switch {
			case in.state.CompareAndSwap(running, spoiling) || in.state.Load() == spoiling:
				in.spoil()
			case in.state.CompareAndSwap(idle, expired) || in.state.Load() == expired:
				return
			}
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	f()
	close(done)
	<-stopped
	if in.err != nil && ctx.Err() != nil {
		in.err = ctx.Err()
	}
}

// spoil overwrites the memory of the instance.
func (in *instance) spoil() {
	in.reading.Lock()
	defer in.reading.Unlock()
	in.memory.spoil(in.param, 4)
}

// file is the document as the instance reads it. The binding keeps it in a
// table for good when an instance is killed, so closing empties it.
type file struct {
	mu sync.Mutex
	r  *io.SectionReader
	in *instance
}

func (f *file) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.r == nil {
		return 0, errSpoiled
	}
	f.in.reading.Lock()
	defer f.in.reading.Unlock()
	if f.in.state.Load() == spoiling {
		return 0, errSpoiled
	}
	return f.r.Read(p)
}

func (f *file) Seek(offset int64, whence int) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.r == nil {
		return 0, errSpoiled
	}
	return f.r.Seek(offset, whence)
}

func (f *file) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.r, f.in = nil, nil
}

const outSize = 4096

func newInstance(p pdfium.Pdfium, ms *memories) (*instance, error) {
	in := &instance{pdfium: p}
	impl, ok := p.GetImplementation().(implementation)
	if !ok {
		return nil, clara.Errorf(clara.Internal, "start pdfium: unexpected binding %T", p.GetImplementation())
	}
	in.impl = impl
	// The module is an exported field of an unexported type.
	module, ok := reflect.Indirect(reflect.ValueOf(impl)).FieldByName("Module").Interface().(api.Module)
	if !ok {
		return nil, clara.Errorf(clara.Internal, "start pdfium: binding %T has no module", impl)
	}
	in.mem = module.Memory()
	if b, ok := in.mem.Read(0, 1); ok {
		in.memory = ms.of(&b[0])
	}
	if in.memory == nil {
		return nil, clara.Errorf(clara.Internal, "start pdfium: its memory is unknown")
	}
	for i, name := range fnNames {
		if in.fns[i] = impl.Fn(name); in.fns[i] == nil {
			return nil, clara.Errorf(clara.Internal, "start pdfium: no function %s", name)
		}
	}
	out, err := impl.Malloc(outSize)
	if err != nil {
		return nil, clara.Errorf(clara.Internal, "start pdfium: %w", err)
	}
	in.out = uint32(out)
	return in, nil
}

// close frees all that the instance holds, whatever state it is in, and gives
// its place in the gate back. It is called once.
func (in *instance) close() {
	defer in.leave()
	if in.err == nil && in.doc != 0 {
		in.guard(context.Background(), 5*time.Second, func() { in.call(fnCloseDocument, in.doc) })
	}
	if in.err != nil {
		_ = in.pdfium.Kill()
	} else {
		_ = in.pdfium.Close()
	}
	if in.file != nil {
		in.file.close()
	}
	// Whatever the binding did, the memory goes.
	in.memory.Free()
}

// call runs a function of pdfium and returns its result, 0 after a fault.
func (in *instance) call(f fn, args ...uint64) uint64 {
	if in.err != nil {
		return 0
	}
	if !in.state.CompareAndSwap(idle, running) {
		in.err = errSpoiled
		return 0
	}
	copy(in.stack[:], args)
	err := in.fns[f].CallWithStack(context.Background(), in.stack[:])
	if !in.state.CompareAndSwap(running, idle) {
		in.err = errSpoiled
		return 0
	}
	if err != nil {
		in.err = fmt.Errorf("%s: %w", fnNames[f], err)
		return 0
	}
	return in.stack[0]
}

// errSpoiled is replaced by the context's error when guard ends.
var errSpoiled = errors.New("stopped by the watchdog")

// callInt is call for functions that return a C int.
func (in *instance) callInt(f fn, args ...uint64) int { return int(int32(uint32(in.call(f, args...)))) }

// callOK is call for functions that return a C bool.
func (in *instance) callOK(f fn, args ...uint64) bool { return uint32(in.call(f, args...)) != 0 }

func (in *instance) outAt(offset uint32) uint64 { return uint64(in.out + offset) }

func (in *instance) float(offset uint32) float64 {
	v, _ := in.mem.ReadFloat32Le(in.out + offset)
	return float64(v)
}

func (in *instance) uint(offset uint32) uint32 {
	v, _ := in.mem.ReadUint32Le(in.out + offset)
	return v
}

func (in *instance) bytes(pointer uint32, size int) []byte {
	if size <= 0 || size > math.MaxInt32 {
		return nil
	}
	b, _ := in.mem.Read(pointer, uint32(size))
	return b
}

// cstring copies a string into guest memory; free it after use.
func (in *instance) cstring(s string) uint64 {
	p, err := in.impl.Malloc(uint64(len(s)) + 1)
	if err != nil {
		in.fail(err)
		return 0
	}
	in.mem.Write(uint32(p), append([]byte(s), 0))
	return p
}

func (in *instance) fail(err error) {
	if in.err == nil {
		in.err = err
	}
}

// text calls f(args..., buffer, size), which answers the length in bytes of
// its UTF-16LE text with the final zero, and returns the text.
func (in *instance) text(f fn, args ...uint64) string {
	n := in.callInt(f, append(args[:len(args):len(args)], uint64(in.out), outSize)...)
	if n <= 2 {
		return ""
	}
	if n <= outSize {
		return utf16le(in.bytes(in.out, n-2))
	}
	if n > 1<<20 {
		return ""
	}
	p, err := in.impl.Malloc(uint64(n))
	if err != nil {
		in.fail(err)
		return ""
	}
	defer func() { _ = in.impl.Free(p) }()
	in.call(f, append(args[:len(args):len(args)], p, uint64(n))...)
	return utf16le(in.bytes(uint32(p), n-2))
}

// open loads the document; pages are read from r when they are asked for.
func (in *instance) open(r io.ReaderAt, size int64, password string) error {
	in.file = &file{r: io.NewSectionReader(r, 0, size), in: in}
	access, _, err := in.impl.CreateFileAccessReader(size, in.file)
	if err != nil {
		return clara.Errorf(clara.Internal, "open pdf: %w", err)
	}
	// The third field of FPDF_FILEACCESS.
	in.param, _ = in.mem.ReadUint32Le(uint32(*access) + 8)
	var pw uint64
	if password != "" {
		pw = in.cstring(password)
		defer func() { _ = in.impl.Free(pw) }()
	}
	in.doc = in.call(fnLoadCustomDocument, *access, pw)
	if in.err != nil {
		return in.err
	}
	if in.doc != 0 {
		return nil
	}
	switch code := in.callInt(fnGetLastError); code {
	case 4:
		if password == "" {
			return clara.Errorf(clara.Invalid, "open pdf: the file is encrypted; give its password with --password")
		}
		return clara.Errorf(clara.Invalid, "open pdf: the password is wrong; give the right one with --password")
	case 5:
		return clara.Errorf(clara.Unsupported, "open pdf: the file is encrypted in a way that pdfium does not read; save it without encryption")
	default:
		return clara.Errorf(clara.Corrupt, "open pdf: the file is damaged or no PDF (pdfium error %d)", code)
	}
}
