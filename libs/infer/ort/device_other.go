//go:build !cgo || windows

package ort

import (
	"runtime"

	"github.com/clara-suite/clara/libs/clara"
)

// Memory is memory of the device that a session computes on.
type Memory struct{}

func noDevice() error {
	return clara.Errorf(clara.Unsupported, "memory of a device on %s, or without cgo: run on the CPU", runtime.GOOS)
}

// Allocate returns an Unsupported error in this build.
func (*Session) Allocate(DType, int64) (*Memory, error) { return nil, noDevice() }

// Constant is NewValue in this build.
func (*Session) Constant(t Tensor) (*Value, error) { return NewValue(t) }

// Len is 0 in this build.
func (*Memory) Len() int64 { return 0 }

// View returns an Unsupported error in this build.
func (*Memory) View(int64, ...int64) (*Value, error) { return nil, noDevice() }

// ViewAs returns an Unsupported error in this build.
func (*Memory) ViewAs(DType, int64, ...int64) (*Value, error) { return nil, noDevice() }

// Write returns an Unsupported error in this build.
func (*Memory) Write(int64, []float32) error { return noDevice() }

// Read returns an Unsupported error in this build.
func (*Memory) Read([]float32, int64) error { return noDevice() }

// Move returns an Unsupported error in this build.
func (*Memory) Move(int64, int64, int64) error { return noDevice() }

// Close does nothing in this build.
func (*Memory) Close() error { return nil }

type deviceAPI struct{}

func openDeviceAPI(string) (deviceAPI, error) { return deviceAPI{}, nil }

func hasDriver() bool { return false }

func (*Binding) synchronize(bool) error { return nil }
