//go:build !cgo

package ort

import "github.com/clara-suite/clara/libs/clara"

func noCgo() error {
	return clara.Errorf(clara.Unsupported, "open ONNX Runtime: this program was built without cgo; build it with CGO_ENABLED=1")
}

// Session is a loaded model.
type Session struct{}

// Open returns an Unsupported error in a build without cgo.
func Open(string, Options) (*Session, error) { return nil, noCgo() }

// OpenBytes returns an Unsupported error in a build without cgo.
func OpenBytes([]byte, Options) (*Session, error) { return nil, noCgo() }

// LacksCUDA returns an Unsupported error in a build without cgo.
func LacksCUDA(Options) error { return noCgo() }

// Inputs describes the inputs of the model.
func (*Session) Inputs() []IO { return nil }

// Outputs describes the outputs of the model.
func (*Session) Outputs() []IO { return nil }

// Run returns an Unsupported error in a build without cgo.
func (*Session) Run(map[string]Tensor) (map[string]Tensor, error) { return nil, noCgo() }

// Metadata returns an Unsupported error in a build without cgo.
func (*Session) Metadata(string) (string, bool, error) { return "", false, noCgo() }

// Provider says what computes.
func (*Session) Provider() Provider { return CPU }

// Note says why a wanted provider is not used.
func (*Session) Note() string { return "" }

// Close does nothing in a build without cgo.
func (*Session) Close() error { return nil }

// Bind returns an Unsupported error in a build without cgo.
func (*Session) Bind() (*Binding, error) { return nil, noCgo() }

// Value is a tensor that the runtime knows.
type Value struct{}

// NewValue returns an Unsupported error in a build without cgo.
func NewValue(Tensor) (*Value, error) { return nil, noCgo() }

// Close does nothing in a build without cgo.
func (*Value) Close() {}

// Binding is a prepared run.
type Binding struct{}

// In returns an Unsupported error in a build without cgo.
func (*Binding) In(string, *Value) error { return noCgo() }

// Out returns an Unsupported error in a build without cgo.
func (*Binding) Out(string, *Value) error { return noCgo() }

// Run returns an Unsupported error in a build without cgo.
func (*Binding) Run() error { return noCgo() }

// Close does nothing in a build without cgo.
func (*Binding) Close() {}
