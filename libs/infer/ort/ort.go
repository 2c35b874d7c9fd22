//go:build cgo

package ort

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"unsafe"

	onnx "github.com/yalue/onnxruntime_go"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/onnx/graph"
)

// The runtime is one library and one environment a process: the binding keeps both in
// package state, so whether they are open has to be known here as well.
var runtimeOnce struct {
	sync.Mutex
	library string
}

// start opens the library, once a process.
func start(library string, p Provider) (string, error) {
	runtimeOnce.Lock()
	defer runtimeOnce.Unlock()
	if open := runtimeOnce.library; open != "" {
		if library != "" && library != open {
			return "", clara.Errorf(clara.State, "open ONNX Runtime %s: this process already runs %s", library, open)
		}
		return open, nil
	}
	if library == "" {
		found, err := LibraryFor(p)
		if err != nil {
			return "", err
		}
		library = found
	}
	onnx.SetSharedLibraryPath(library)
	if err := onnx.InitializeEnvironment(onnx.WithLogLevelError()); err != nil {
		return "", clara.Errorf(clara.State, "open ONNX Runtime %s: %w; it takes release 1.24 or newer for this platform", library, err)
	}
	runtimeOnce.library = library
	return library, nil
}

// Session is a loaded model.
type Session struct {
	s        *onnx.DynamicAdvancedSession
	path     string
	library  string
	api      deviceAPI
	provider Provider
	device   int // of CUDA
	note     string
	in, out  []IO
	domain   unsafe.Pointer // of operators of our own, or nil
	matrices *Matrices      // of this session alone, or nil
}

// Open loads the model file at path. The weights files it names must lie in its folder.
// It returns a State error if the runtime cannot be had, NotFound if the file is missing
// and Corrupt if it cannot be loaded.
func Open(path string, o Options) (*Session, error) {
	model, err := os.ReadFile(path)
	if err != nil {
		return nil, clara.Errorf(clara.NotFound, "open model: %w", err)
	}
	return open(path, model, o, func(in, out []string, so *onnx.SessionOptions) (*onnx.DynamicAdvancedSession, error) {
		return onnx.NewDynamicAdvancedSession(path, in, out, so)
	})
}

// OpenBytes loads a model that is in memory and has no files beside it. Errors are those of Open.
func OpenBytes(model []byte, o Options) (*Session, error) {
	return open("model in memory", model, o, func(in, out []string, so *onnx.SessionOptions) (*onnx.DynamicAdvancedSession, error) {
		return onnx.NewDynamicAdvancedSessionWithONNXData(model, in, out, so)
	})
}

type loader func(in, out []string, so *onnx.SessionOptions) (*onnx.DynamicAdvancedSession, error)

func open(path string, model []byte, o Options, load loader) (*Session, error) {
	switch o.Provider {
	case "", Auto, CPU, CUDA:
	default:
		return nil, clara.Errorf(clara.Invalid, "open %s: provider %q: want auto, cpu or cuda", path, o.Provider)
	}
	library, err := start(o.Library, o.Provider)
	if err != nil {
		return nil, err
	}
	s := &Session{path: path, library: library, provider: CPU, device: o.Device}
	if s.api, err = openDeviceAPI(library); err != nil {
		return nil, err
	}
	if s.in, s.out, err = describe(model); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	if o.Provider != CPU {
		lack := lacksCUDA(library)
		if lack == nil {
			if s.s, err = s.load(o, true, load); err == nil {
				s.provider = CUDA
				return s, nil
			}
			lack = fmt.Errorf("ONNX Runtime could not start it: %w", err) // it names the library or device that is missing
		}
		if o.Provider == CUDA {
			return nil, clara.Errorf(clara.State, "open %s on CUDA device %d: %w; or choose device cpu", path, o.Device, lack)
		}
		s.note = fmt.Sprintf("CUDA is not used: %v", lack)
	}
	if domain := operatorsDomain(); domain != "" && !o.Plain {
		special, n, err := graph.Specialize(model, domain)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", path, err)
		}
		// Before products with floats, which what shifts blocks is one of.
		special, products, err := s.moveProducts(special, domain, filepath.Dir(path), o)
		if err != nil {
			s.dropOperators()
			return nil, fmt.Errorf("open %s: %w", path, err)
		}
		if n+products > 0 {
			load = func(in, out []string, so *onnx.SessionOptions) (*onnx.DynamicAdvancedSession, error) {
				// Weights beside the file are sought in the folder that is named, as the model now comes from memory.
				if err := so.AddSessionConfigEntry("session.model_external_initializers_file_folder_path", filepath.Dir(path)); err != nil {
					return nil, err
				}
				if err := s.addOperators(so, o.narrow); err != nil {
					return nil, err
				}
				return onnx.NewDynamicAdvancedSessionWithONNXData(special, in, out, so)
			}
		}
	}
	if s.s, err = s.load(o, false, load); err != nil {
		s.dropOperators()
		return nil, clara.Errorf(clara.Corrupt, "open model %s: %w", path, err)
	}
	return s, nil
}

// lacksCUDA says what is missing for CUDA, as far as can be seen without trying; nil if nothing is.
func lacksCUDA(library string) error {
	const plugin = "libonnxruntime_providers_cuda.so"
	if _, err := os.Stat(filepath.Join(filepath.Dir(library), plugin)); err != nil {
		return fmt.Errorf("%s is not beside %s, which is a build for the CPU: run `ORT=cuda scripts/deps.sh onnxruntime`, or name a GPU build by CLARA_ONNXRUNTIME", plugin, library)
	}
	if !hasDriver() {
		return errors.New("libcuda.so.1 is not there: install NVIDIA's driver, or give the container its devices")
	}
	return nil
}

func (s *Session) load(o Options, cuda bool, load loader) (*onnx.DynamicAdvancedSession, error) {
	so, err := onnx.NewSessionOptions()
	if err != nil {
		return nil, err
	}
	defer so.Destroy()
	threads := o.Threads
	if threads <= 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	if err := so.SetIntraOpNumThreads(threads); err != nil {
		return nil, err
	}
	if err := so.SetGraphOptimizationLevel(onnx.GraphOptimizationLevelEnableAll); err != nil {
		return nil, err
	}
	if o.SharePages {
		if err := so.AddSessionConfigEntry("session.disable_prepacking", "1"); err != nil {
			return nil, err
		}
	}
	if cuda {
		co, err := onnx.NewCUDAProviderOptions()
		if err != nil {
			return nil, err
		}
		defer co.Destroy()
		// Without TF32 float32 is float32: memories must agree with those of other machines. The arena grows by what is
		// asked for, as the cache of keys and values is reserved at once.
		options := map[string]string{"device_id": strconv.Itoa(o.Device), "use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}
		if err := co.Update(options); err != nil {
			return nil, err
		}
		if err := so.AppendExecutionProviderCUDA(co); err != nil {
			return nil, err
		}
	}
	return load(namesOf(s.in), namesOf(s.out), so)
}

// LacksCUDA says why sessions with these options would not compute on CUDA, as far as can be seen without opening one; nil
// if nothing speaks against it. It opens the runtime's library; errors of that are among the reasons.
func LacksCUDA(o Options) error {
	if o.Provider == CPU {
		return errors.New("the device is set to cpu")
	}
	library, err := start(o.Library, o.Provider)
	if err != nil {
		return err
	}
	return lacksCUDA(library)
}

// Provider says what computes: CPU or CUDA.
func (s *Session) Provider() Provider { return s.provider }

// Note says in words what CUDA lacks where Auto would have taken it; empty otherwise.
func (s *Session) Note() string { return s.note }

// Close frees the model. No run may be under way.
func (s *Session) Close() error {
	if s.s == nil {
		return nil
	}
	err := s.s.Destroy()
	s.s = nil
	s.dropOperators()
	return err
}

// Metadata returns an entry of the model's metadata and whether it is there.
func (s *Session) Metadata(key string) (string, bool, error) {
	m, err := s.s.GetModelMetadata()
	if err != nil {
		return "", false, fmt.Errorf("read metadata of %s: %w", s.path, err)
	}
	defer m.Destroy()
	return m.LookupCustomMetadataMap(key)
}

// Inputs describes the inputs of the model.
func (s *Session) Inputs() []IO { return s.in }

// Outputs describes the outputs of the model.
func (s *Session) Outputs() []IO { return s.out }

func describe(model []byte) (in, out []IO, err error) {
	inputs, outputs, err := graph.Inspect(model)
	return ios(inputs), ios(outputs), err
}

func ios(values []graph.Value) []IO {
	list := make([]IO, len(values))
	for i, v := range values {
		list[i] = IO{Name: v.Name(), Shape: make([]int64, len(v.Shape())), Type: v.DType().String()}
		for j, d := range v.Shape() {
			list[i].Shape[j] = d.Size
			if d.Name != "" {
				list[i].Shape[j] = -1
			}
		}
	}
	return list
}

func namesOf(list []IO) []string {
	names := make([]string, len(list))
	for i, x := range list {
		names[i] = x.Name
	}
	return names
}

// Run runs the model on its inputs by name and returns all its outputs by name, in new memory.
// It returns an Invalid error for a missing or unknown input or a tensor that does not fill its shape.
func (s *Session) Run(inputs map[string]Tensor) (map[string]Tensor, error) {
	in := make([]onnx.Value, len(s.in))
	for i, x := range s.in {
		t, ok := inputs[x.Name]
		if !ok {
			return nil, clara.Errorf(clara.Invalid, "run %s: input %s is missing", s.path, x.Name)
		}
		v, err := NewValue(t)
		if err != nil {
			return nil, fmt.Errorf("run %s: input %s: %w", s.path, x.Name, err)
		}
		defer v.Close()
		in[i] = v.v
	}
	if len(inputs) != len(in) {
		return nil, clara.Errorf(clara.Invalid, "run %s: %d inputs given, it has %v", s.path, len(inputs), namesOf(s.in))
	}
	out := make([]onnx.Value, len(s.out))
	if err := s.s.Run(in, out); err != nil {
		return nil, fmt.Errorf("run %s: %w", s.path, err)
	}
	result := make(map[string]Tensor, len(out))
	var fault error
	for i, v := range out {
		t, err := tensorOf(v)
		v.Destroy()
		if err != nil {
			fault = fmt.Errorf("run %s: output %s: %w", s.path, s.out[i].Name, err)
		}
		result[s.out[i].Name] = t
	}
	return result, fault
}

func tensorOf(v onnx.Value) (Tensor, error) {
	shape := append([]int64{}, v.GetShape()...)
	switch t := v.(type) {
	case *onnx.Tensor[float32]:
		return Tensor{shape, t.GetData()}, nil
	case *onnx.Tensor[int64]:
		return Tensor{shape, t.GetData()}, nil
	case *onnx.Tensor[int32]:
		return Tensor{shape, t.GetData()}, nil
	case *onnx.Tensor[uint8]:
		return Tensor{shape, t.GetData()}, nil
	}
	return Tensor{}, clara.Errorf(clara.Unsupported, "tensor of %T", v)
}

// Value is a tensor that the runtime knows. Its memory is pinned until Close.
type Value struct {
	v      onnx.Value
	tensor Tensor
	pin    runtime.Pinner
	// device: the memory is that of the session's device.
	device bool
	memory *Memory // that it is a view of
	owns   bool    // memory is closed with it
}

// NewValue makes the tensor's memory known to the runtime, without copying: what is written
// to it later is seen by later runs, and runs write to it where it is bound as an output.
func NewValue(t Tensor) (*Value, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	v := &Value{tensor: t}
	var err error
	shape := onnx.NewShape(t.Shape...)
	switch d := t.Data.(type) {
	case []float32:
		v.v, err = wrap(v, shape, d)
	case []int64:
		v.v, err = wrap(v, shape, d)
	case []int32:
		v.v, err = wrap(v, shape, d)
	case []uint8:
		v.v, err = wrap(v, shape, d)
	case Half:
		v.v, err = wrapHalf(v, t.Shape, d)
	}
	if err != nil {
		v.pin.Unpin()
		return nil, fmt.Errorf("make tensor of shape %v: %w", t.Shape, err)
	}
	return v, nil
}

func wrap[T Element](v *Value, shape onnx.Shape, data []T) (onnx.Value, error) {
	if len(data) > 0 {
		v.pin.Pin(&data[0])
	}
	return onnx.NewTensor(shape, data)
}

// Close forgets the tensor and unpins its memory. No Binding may use it any more.
func (v *Value) Close() {
	if v.v != nil {
		v.v.Destroy()
		v.v = nil
		v.pin.Unpin()
		if v.owns {
			v.memory.Close() // nothing that could be done about a fault
		}
	}
}

// Binding is a prepared run: bind once, run often. Values bound must stay open until it is closed.
type Binding struct {
	s    *Session
	b    *onnx.IoBinding
	held map[string]*Value // the runtime keeps no Go memory alive
	// host are the inputs in this machine's memory: to a device they are copied when they are bound, so before each run.
	host map[string]*Value
}

// Bind returns an empty binding.
func (s *Session) Bind() (*Binding, error) {
	b, err := s.s.CreateIoBinding()
	if err != nil {
		return nil, fmt.Errorf("bind %s: %w", s.path, err)
	}
	return &Binding{s, b, map[string]*Value{}, map[string]*Value{}}, nil
}

// In binds an input; binding a name again replaces it.
func (b *Binding) In(name string, v *Value) error {
	if err := b.b.BindInput(name, v.v); err != nil {
		return fmt.Errorf("bind input %s of %s: %w", name, b.s.path, err)
	}
	b.held["in "+name] = v
	delete(b.host, name)
	if b.s.provider == CUDA && !v.device {
		b.host[name] = v
	}
	return nil
}

// Out binds an output to be written in place. An output that is not bound is not returned.
func (b *Binding) Out(name string, v *Value) error {
	if err := b.b.BindOutput(name, v.v); err != nil {
		return fmt.Errorf("bind output %s of %s: %w", name, b.s.path, err)
	}
	b.held["out "+name] = v
	return nil
}

// Run runs the model once.
func (b *Binding) Run() error {
	for name, v := range b.host {
		if err := b.b.BindInput(name, v.v); err != nil {
			return fmt.Errorf("run %s: copy input %s: %w", b.s.path, name, err)
		}
	}
	if b.s.provider == CUDA {
		if err := b.synchronize(true); err != nil {
			return fmt.Errorf("run %s: %w", b.s.path, err)
		}
	}
	if err := b.s.s.RunWithBinding(b.b); err != nil {
		return fmt.Errorf("run %s: %w", b.s.path, err)
	}
	if b.s.provider == CUDA {
		if err := b.synchronize(false); err != nil {
			return fmt.Errorf("run %s: %w", b.s.path, err)
		}
	}
	runtime.KeepAlive(b)
	return nil
}

// Close frees the binding, not the values.
func (b *Binding) Close() {
	if b.b != nil {
		b.b.Destroy()
		b.b = nil
		b.held, b.host = nil, nil
	}
}
